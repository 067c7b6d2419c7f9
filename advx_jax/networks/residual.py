"""Residual networks of any family, built from one plan: stem, stages of blocks, head."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from advx_jax.networks.batch_norm import BatchNorm
from advx_jax.networks.convolution import Convolution, Padding
from advx_jax.networks.head import Head

Activation = Literal["relu", "swish"]
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"relu": jax.nn.relu, "swish": jax.nn.silu}

# As He et al. (arXiv 1502.01852) draw kernels, with the outputs counted, as WideResNets do.
_KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


@dataclasses.dataclass(frozen=True)
class BlockPlan:
    """How the residual blocks of a network are built.

    Attributes:
        extents: of the kernels on the main path, in their order: (3, 3), or (1, 3, 1) for a bottleneck.
        pre_activation: whether BatchNorm and activation stand before each convolution, or behind it.
        shortcut_extent: of the shortcut's kernel, where stride or channels change.
        shortcut_of: what that convolution takes: the block's input, or the activated input of a pre-activation block.
        pads_behind: whether a stride of 2 pads behind rows and columns only, as TensorFlow's "SAME" does.
    """

    extents: tuple[int, ...] = (3, 3)
    pre_activation: bool = True
    shortcut_extent: int = 1
    shortcut_of: Literal["input", "activated"] = "activated"
    pads_behind: bool = False

    def padding(self, extent: int, stride: int) -> Padding:
        """Zeros around the input of a convolution."""
        both = (0, extent // 2) if self.pads_behind and stride > 1 else (extent // 2, extent // 2)
        return (both, both)


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """Blocks of the same width.

    Attributes:
        length: number of blocks.
        features: channels that its blocks give.
        inner: channels inside its blocks.
        stride: of the first block.
        name: of its blocks, before their number.
    """

    length: int
    features: int
    inner: int
    stride: int
    name: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that a residual network is made of.

    Attributes:
        stem: channels behind the first convolution.
        stages: in the order in which an image passes them.
        block: how their blocks are built.
        n_classes: K.
        mean: of each channel, with which a new network normalises images.
        std: of each channel, likewise.
        large_images: whether the stem is a 7x7 convolution of stride 2 and a max pooling, or a 3x3 convolution.
        activation: its name.
        head_norm: whether BatchNorm and activation stand before the last pooling.
        head_bias: whether the linear layer has a bias.
        padding: zeros put around the images, before they are normalised.
        idle: stages whose numbers a network has though no image ever passes them.
    """

    stem: int
    stages: tuple[StagePlan, ...]
    block: BlockPlan
    n_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    large_images: bool = False
    activation: Activation = "relu"
    head_norm: bool = True
    head_bias: bool = True
    padding: int = 0
    idle: tuple[StagePlan, ...] = ()


@dataclasses.dataclass(frozen=True)
class Context:
    """How a pass through a network goes; see `Architecture.module` for `axis_name`, `dtype` and `precision`."""

    train: bool
    real: Array | None
    axis_name: str | None
    dtype: DTypeLike | None
    precision: lax.Precision
    activate: Callable[[Array], Array]

    def norm(self, x: Array, name: str) -> Array:
        """Batch normalisation."""
        return BatchNorm(axis_name=self.axis_name, name=name)(x, train=self.train, real=self.real)

    def convolution(self, x: Array, name: str, features: int, extent: int, stride: int, padding: Padding) -> Array:
        """Convolution without bias."""
        layer = Convolution(
            features, stride, extent, padding, _KERNEL_INIT, dtype=self.dtype, precision=self.precision, name=name
        )
        return layer(x)


class Block(nn.Module):
    """Convolutions with BatchNorm and activation around a shortcut.

    Attributes:
        plan: of the block.
        features: channels that it gives.
        inner: channels inside.
        stride: of its first 3x3 convolution, and of the shortcut.
    """

    plan: BlockPlan
    features: int
    inner: int
    stride: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width inputs"], context: Context
    ) -> Float[Array, "batch out_height out_width outputs"]:
        """Apply the block to feature maps."""
        plan = self.plan
        changes = self.stride != 1 or x.shape[-1] != self.features
        last = len(plan.extents)
        strided = plan.extents.index(3) + 1

        def convolve(x: Array, name: str, features: int, extent: int, stride: int) -> Array:
            return context.convolution(x, name, features, extent, stride, plan.padding(extent, stride))

        main = shortcut = x
        if plan.pre_activation:
            main = context.activate(context.norm(x, "bn1"))
        if changes:
            taken = main if plan.shortcut_of == "activated" else x
            shortcut = convolve(taken, "shortcut", self.features, plan.shortcut_extent, self.stride)
            shortcut = shortcut if plan.pre_activation else context.norm(shortcut, "shortcut_bn")
        for number, extent in enumerate(plan.extents, start=1):
            if plan.pre_activation and number > 1:
                main = context.activate(context.norm(main, f"bn{number}"))
            features = self.features if number == last else self.inner
            main = convolve(main, f"conv{number}", features, extent, self.stride if number == strided else 1)
            if not plan.pre_activation:
                main = context.norm(main, f"bn{number}")
                main = context.activate(main) if number < last else main
        return main + shortcut if plan.pre_activation else context.activate(main + shortcut)


class ResidualNetwork(nn.Module):
    """A residual network: images on the [0,1] scale to logits; see `Architecture.module`.

    Attributes:
        plan: of the network.
        axis_name: mapped axis over which BatchNorm shares its statistics in training.
        dtype: of the convolutions and what flows between them; as the parameters if None.
        precision: of their products, see `Architecture.module`.
    """

    plan: Plan
    axis_name: str | None = None
    dtype: DTypeLike | None = None
    precision: lax.Precision = lax.Precision.HIGHEST

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        real: Bool[Array, " batch"] | None = None,
    ) -> Float[Array, "batch classes"]:
        """Classify images.

        Args:
            images: NHWC on the [0,1] scale; not clipped.
            train: normalise with the batch's statistics and move the running ones
                (make the collection `batch_stats` mutable).
            real: in training, the examples that are no padding; all if None.
        """
        plan = self.plan
        context = Context(train, real, self.axis_name, self.dtype, self.precision, ACTIVATIONS[plan.activation])
        mean = self.variable("constants", "mean", functools.partial(jnp.asarray, plan.mean, jnp.float32))
        std = self.variable("constants", "std", functools.partial(jnp.asarray, plan.std, jnp.float32))
        around = (plan.padding, plan.padding)
        x = jnp.pad(images, ((0, 0), around, around, (0, 0))) if plan.padding else images
        x = (x - mean.value.reshape(1, 1, 1, -1)) / std.value.reshape(1, 1, 1, -1)
        extent, stride = (7, 2) if plan.large_images else (3, 1)
        x = context.convolution(x, "stem", plan.stem, extent, stride, ((extent // 2, extent // 2),) * 2)
        if not plan.block.pre_activation:
            x = context.activate(context.norm(x, "stem_bn"))
        if plan.large_images:
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        if self.is_initializing():
            for stage in plan.idle:
                self._stage(x, stage, context)
        for stage in plan.stages:
            x = self._stage(x, stage, context)
        if plan.head_norm:
            x = context.activate(context.norm(x, "head_bn"))
        x = x.astype(jnp.promote_types(x.dtype, images.dtype)).mean((1, 2))
        head = Head(plan.n_classes, plan.head_bias, name="head")
        return head(x)

    def _stage(self, x: Array, stage: StagePlan, context: Context) -> Array:
        for number in range(1, stage.length + 1):
            stride = stage.stride if number == 1 else 1
            name = f"{stage.name}_block{number}"
            x = Block(self.plan.block, stage.features, stage.inner, stride, name=name)(x, context)
        return x
