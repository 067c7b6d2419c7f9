"""The families of networks whose PyTorch files are common, beside the method's own (docs/networks.md)."""

import abc
import dataclasses
from collections.abc import Collection
from typing import Any, ClassVar, Literal

from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike

from advx_jax.errors import UserError
from advx_jax.messages import shown
from advx_jax.networks.architecture import Architecture
from advx_jax.networks.residual import ACTIVATIONS, Activation, BlockPlan, Plan, ResidualNetwork, StagePlan

# DeepMind's networks contain them; those of CIFAR-10 differ in one digit from the ones the method's networks use.
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)

# Of ResNets by their depth: blocks in each stage, and whether these are bottlenecks.
STAGES: dict[int, tuple[tuple[int, int, int, int], bool]] = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
_BASIC, _BOTTLENECK = (3, 3), (1, 3, 1)
_EXPANSION = 4

# Larger networks than anybody trains; what a file claims beyond costs memory and time to build.
_MOST_BLOCKS_IN_A_STAGE, _WIDEST, _MOST_CLASSES = 300, 1024, 2**20
_SMALLEST_SIDE, _LARGEST_SIDE, _MOST_CHANNELS = 8, 4096, 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidualArchitecture(Architecture, abc.ABC):
    """A family of residual networks, which take images of other sizes, too.

    Attributes:
        n_classes: K, the number of classes.
        image_shape: height, width and channels of the images that it is made for.
    """

    n_classes: int = 10
    image_shape: tuple[int, int, int] = (32, 32, 3)

    family: ClassVar[str]

    def __post_init__(self) -> None:
        """Refuse what cannot be built.

        Raises:
            UserError: a size is out of range.
        """
        _in_range("classes", self.n_classes, 1, _MOST_CLASSES)
        for side in self.image_shape[:2]:
            _in_range("pixels of height and width", side, _SMALLEST_SIDE, _LARGEST_SIDE)
        _in_range("channels of images", self.image_shape[2], 1, _MOST_CHANNELS)

    @property
    def activation(self) -> str:
        """Name of the activation function."""
        return self.plan().activation

    @property
    def n_blocks(self) -> int:
        """Number of residual blocks."""
        plan = self.plan()
        return sum(stage.length for stage in (*plan.stages, *plan.idle))

    @abc.abstractmethod
    def plan(self) -> Plan:
        """What the network is made of."""

    def module(
        self,
        axis_name: str | None = None,
        dtype: DTypeLike | None = None,
        precision: lax.Precision = lax.Precision.HIGHEST,
    ) -> nn.Module:
        """See `Architecture.module`."""
        return ResidualNetwork(self.plan(), axis_name, dtype, precision)

    def _plan(
        self,
        stem: int,
        stages: tuple[StagePlan, ...],
        block: BlockPlan,
        colours: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
        **others: Any,
    ) -> Plan:
        """A plan for its classes and channels; `colours` normalise colour images, and for others nothing is common."""
        channels = self.image_shape[2]
        plain = (0.0,) * channels, (1.0,) * channels
        mean, std = colours if colours and len(colours[0]) == channels else plain
        return Plan(stem, stages, block, self.n_classes, mean=mean, std=std, **others)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WideResNetArchitecture(ResidualArchitecture):
    """WideResNet (arXiv 1605.07146) as TRADES and RobustBench build it.

    Attributes:
        depth: 6n + 4, with n blocks in each of the three stages.
        width: k; the stages have 16k, 32k and 64k channels.
        sub_block1: whether it has a stage that nothing uses, as some published networks do.
        bias_last: whether the linear layer has a bias.
    """

    family = "WideResNet"

    depth: int = 28
    width: int = 10
    sub_block1: bool = False
    bias_last: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        super().__post_init__()
        _check_wide(self.depth, self.width)

    @property
    def name(self) -> str:
        """WideResNet-28-10."""
        return f"{self.family}-{self.depth}-{self.width}"

    def plan(self) -> Plan:
        """What the network is made of."""
        stages = _wide_stages(self.depth, self.width)
        idle = (dataclasses.replace(stages[0], name="sub_block1"),) if self.sub_block1 else ()
        return self._plan(16, stages, BlockPlan(), head_bias=self.bias_last, idle=idle)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DMWideResNetArchitecture(ResidualArchitecture):
    """WideResNet as DeepMind builds it (arXiv 2010.03593): strides pad behind, images are normalised inside.

    Attributes:
        depth: 6n + 4, with n blocks in each of the three stages.
        width: k; the stages have 16k, 32k and 64k channels.
        activation: "swish", which is SiLU, or "relu".
        padding: zeros put around the images.
    """

    family = "DMWideResNet"

    depth: int = 28
    width: int = 10
    activation: Activation = "swish"
    padding: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        super().__post_init__()
        _check_wide(self.depth, self.width)
        _check_deepmind(self.activation, self.padding)
        for side in self.image_shape[:2]:
            if (side + 2 * self.padding) % 4:
                raise UserError(
                    f"expected height and width of images to be divisible by 4 with its padding, got {side} "
                    f"and {self.padding}"
                )

    @property
    def name(self) -> str:
        """DMWideResNet-28-10-swish."""
        return f"{self.family}-{self.depth}-{self.width}-{self.activation}{_padding_in_name(self.padding)}"

    def plan(self) -> Plan:
        """What the network is made of."""
        stages, block = _wide_stages(self.depth, self.width), BlockPlan(pads_behind=True)
        colours = _deepmind_normalisation(self.n_classes)
        return self._plan(16, stages, block, colours, activation=self.activation, padding=self.padding)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreActResNetArchitecture(ResidualArchitecture):
    """Pre-activation ResNet for small images, as RobustBench builds it.

    Attributes:
        depth: 18, 34, 50, 101 or 152.
        shortcut_of: what shortcuts with a convolution take: the block's input, as RobustBench's `PreActBlock`, or
            the activated input, as its `PreActBlockV2` and all bottlenecks.
        bn_before_fc: whether BatchNorm and activation stand before the last pooling.
    """

    family = "PreActResNet"

    depth: int = 18
    shortcut_of: Literal["input", "activated"] = "input"
    bn_before_fc: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        super().__post_init__()
        _check_depth(self.depth, STAGES)
        if self.shortcut_of not in ("input", "activated"):
            raise UserError(f"expected shortcuts of the input or the activated input, got {shown(self.shortcut_of)}")
        if STAGES[self.depth][1] and self.shortcut_of == "input":
            raise UserError(f"expected shortcuts of the activated input in bottlenecks ({self.name})")

    @property
    def name(self) -> str:
        """PreActResNet-18, or PreActResNet-18-v2 where shortcuts of basic blocks take the activated input."""
        second = self.shortcut_of == "activated" and not STAGES[self.depth][1]
        return f"{self.family}-{self.depth}{'-v2' if second else ''}"

    def plan(self) -> Plan:
        """What the network is made of."""
        block = BlockPlan(_extents(self.depth), shortcut_of=self.shortcut_of)
        return self._plan(64, _deep_stages(self.depth), block, head_norm=self.bn_before_fc)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DMPreActResNetArchitecture(ResidualArchitecture):
    """Pre-activation ResNet as DeepMind builds it: 3x3 shortcuts, strides pad behind, images are normalised inside.

    Attributes:
        depth: 18 or 34.
        activation: "swish", which is SiLU, or "relu".
        padding: zeros put around the images.
    """

    family = "DMPreActResNet"

    depth: int = 18
    activation: Activation = "swish"
    padding: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        super().__post_init__()
        _check_depth(self.depth, (18, 34))
        _check_deepmind(self.activation, self.padding)

    @property
    def name(self) -> str:
        """DMPreActResNet-18-swish."""
        return f"{self.family}-{self.depth}-{self.activation}{_padding_in_name(self.padding)}"

    def plan(self) -> Plan:
        """What the network is made of."""
        block = BlockPlan(shortcut_extent=3, shortcut_of="input", pads_behind=True)
        stages, colours = _deep_stages(self.depth), _deepmind_normalisation(self.n_classes)
        return self._plan(64, stages, block, colours, activation=self.activation, padding=self.padding)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CifarResNetArchitecture(ResidualArchitecture):
    """ResNet (arXiv 1512.03385) in the form for small images: a 3x3 convolution first, no pooling behind it.

    Attributes:
        depth: 18, 34, 50, 101 or 152.
    """

    family = "CifarResNet"

    depth: int = 18

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        super().__post_init__()
        _check_depth(self.depth, STAGES)

    @property
    def name(self) -> str:
        """ResNet-18-cifar."""
        return f"ResNet-{self.depth}-cifar"

    def plan(self) -> Plan:
        """What the network is made of."""
        return self._plan(64, _deep_stages(self.depth), _post_activation(self.depth), head_norm=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageNetResNetArchitecture(ResidualArchitecture):
    """ResNet for large images as torchvision builds it: the stride of a bottleneck is that of its 3x3 convolution.

    Attributes:
        depth: 18, 34, 50, 101 or 152.
        width: how many times as many channels bottlenecks have inside; 2 in `wide_resnet50_2`.
    """

    family = "ImageNetResNet"

    n_classes: int = 1000
    image_shape: tuple[int, int, int] = (224, 224, 3)
    depth: int = 50
    width: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        super().__post_init__()
        _check_depth(self.depth, STAGES)
        _in_range("times the width", self.width, 1, _WIDEST if STAGES[self.depth][1] else 1)

    @property
    def name(self) -> str:
        """ResNet-50-imagenet, WideResNet-50-2-imagenet."""
        return f"{f'WideResNet-{self.depth}-{self.width}' if self.width > 1 else f'ResNet-{self.depth}'}-imagenet"

    def plan(self) -> Plan:
        """What the network is made of."""
        stages, block = _deep_stages(self.depth, self.width), _post_activation(self.depth)
        return self._plan(64, stages, block, large_images=True, head_norm=False)


FAMILIES: dict[str, type[ResidualArchitecture]] = {
    family.family: family
    for family in (
        WideResNetArchitecture,
        DMWideResNetArchitecture,
        PreActResNetArchitecture,
        DMPreActResNetArchitecture,
        CifarResNetArchitecture,
        ImageNetResNetArchitecture,
    )
}
"""By the names that files give them."""


def _in_range(what: str, number: int, least: int, most: int) -> None:
    if not least <= number <= most:
        raise UserError(f"expected from {least} to {most} {what}, got {shown(number)}")


def _check_wide(depth: int, width: int) -> None:
    _in_range("layers", depth, 10, 6 * _MOST_BLOCKS_IN_A_STAGE + 4)
    if depth % 6 != 4:
        raise UserError(f"expected the depth of a WideResNet to be 6n + 4, got {depth}")
    _in_range("times the width", width, 1, _WIDEST)


def _check_depth(depth: int, known: Collection[int]) -> None:
    if depth not in known:
        raise UserError(f"expected one of the depths {', '.join(map(str, known))}, got {shown(depth)}")


def _check_deepmind(activation: str, padding: int) -> None:
    if activation not in ACTIVATIONS:
        raise UserError(f"expected the activation {' or '.join(ACTIVATIONS)}, got {shown(activation)}")
    _in_range("pixels of padding", padding, 0, _LARGEST_SIDE)


def _padding_in_name(padding: int) -> str:
    return f"-pad{padding}" if padding else ""


def _deepmind_normalisation(n_classes: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return (CIFAR100_MEAN, CIFAR100_STD) if n_classes == 100 else (CIFAR10_MEAN, CIFAR10_STD)


def _extents(depth: int) -> tuple[int, ...]:
    return _BOTTLENECK if STAGES[depth][1] else _BASIC


def _post_activation(depth: int) -> BlockPlan:
    return BlockPlan(_extents(depth), pre_activation=False, shortcut_of="input")


def _wide_stages(depth: int, width: int) -> tuple[StagePlan, ...]:
    length = (depth - 4) // 6
    return tuple(
        StagePlan(length, features * width, features * width, stride, f"stage{number}")
        for number, (features, stride) in enumerate(((16, 1), (32, 2), (64, 2)), start=1)
    )


def _deep_stages(depth: int, width: int = 1) -> tuple[StagePlan, ...]:
    lengths, bottleneck = STAGES[depth]
    stages = []
    for number, (length, inner) in enumerate(zip(lengths, (64, 128, 256, 512), strict=True), start=1):
        features = inner * (_EXPANSION if bottleneck else 1)
        stages.append(StagePlan(length, features, inner * width, 1 if number == 1 else 2, f"stage{number}"))
    return tuple(stages)
