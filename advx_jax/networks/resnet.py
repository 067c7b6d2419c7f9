"""Pre-activation ResNet for small images (docs/method.md, Network; He et al., arXiv 1603.05027)."""

import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from advx_jax.errors import UserError
from advx_jax.messages import listed, shown
from advx_jax.networks.activations import half_huber_relu
from advx_jax.networks.architecture import Architecture
from advx_jax.networks.batch_norm import BatchNorm
from advx_jax.networks.convolution import Convolution
from advx_jax.networks.head import Head

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.247, 0.243, 0.261)

# Larger networks than anybody trains on small images; what a file claims beyond costs memory and time to build.
_MOST_BLOCKS, _MOST_CHANNELS, _LARGEST_SIDE = 1000, 2**20, 4096


@dataclasses.dataclass(frozen=True)
class ResNetArchitecture(Architecture):
    """What must be known to build a ResNet, apart from its numbers.

    Attributes:
        stage_lengths: residual blocks in each stage; all stages but the first halve the image.
        stage_widths: channels of each stage.
        n_classes: K, the number of classes.
        activation: "relu", or "half_huber" with the robustness additions.
        bowl_width: d of the Half-Huber ReLU; ignored by "relu".
        image_shape: height, width and channels of the images that it is made for.
    """

    stage_lengths: tuple[int, ...] = (7, 7, 7)
    stage_widths: tuple[int, ...] = (16, 32, 64)
    n_classes: int = 10
    activation: Literal["relu", "half_huber"] = "relu"
    bowl_width: float = 0.5
    image_shape: tuple[int, int, int] = (32, 32, 3)

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        lengths, widths = self.stage_lengths, self.stage_widths
        if len(lengths) != len(widths) or not lengths or min(*lengths, *widths, self.n_classes) < 1:
            raise UserError(
                "expected as many stage lengths as stage widths, and classes, all positive, "
                f"got lengths {lengths}, widths {widths} and {shown(self.n_classes)} classes"
            )
        if sum(lengths) > _MOST_BLOCKS or max(*widths, self.n_classes) > _MOST_CHANNELS:
            raise UserError(
                f"expected at most {_MOST_BLOCKS} blocks, and at most {_MOST_CHANNELS} channels and classes, "
                f"got {shown(sum(lengths))} blocks, {shown(max(widths))} channels and {shown(self.n_classes)} classes"
            )
        if self.activation not in ("relu", "half_huber"):
            raise UserError(f"expected the activation relu or half_huber, got {self.activation!r}")
        if not 0 < self.bowl_width < math.inf:
            raise UserError(f"expected a positive bowl width, got {self.bowl_width}")
        if not all(0 < size <= _LARGEST_SIDE for size in self.image_shape):
            raise UserError(
                f"expected height, width and channels of images, from 1 to {_LARGEST_SIDE}, got "
                f"{listed([shown(size) for size in self.image_shape])}"
            )

    @property
    def name(self) -> str:
        """As such networks are called, by the layers on the longest path: ResNet-44."""
        return f"ResNet-{2 * sum(self.stage_lengths) + 2}"

    @property
    def n_blocks(self) -> int:
        """Number of residual blocks."""
        return sum(self.stage_lengths)

    @property
    def identity(self) -> str:
        """As it was when this was the only family, for CIFAR-10 only, so that fingerprints stay what they are."""
        return repr(self).removeprefix("ResNet").replace(f", image_shape={ResNetArchitecture.image_shape}", "")

    def module(
        self,
        axis_name: str | None = None,
        dtype: DTypeLike | None = None,
        precision: lax.Precision = lax.Precision.HIGHEST,
    ) -> "ResNet":
        """See `Architecture.module`."""
        return ResNet(self, axis_name, dtype, precision)

    def activate(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Apply the activation function."""
        return half_huber_relu(x, self.bowl_width) if self.activation == "half_huber" else jax.nn.relu(x)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each behind BatchNorm and activation, around a shortcut.

    Where stride or width changes, the shortcut is a 3x3 convolution of the pre-activated input.

    Attributes:
        architecture: gives the activation.
        features: channels of the output.
        stride: of the first convolution and of the shortcut.
        axis_name: see `BatchNorm`.
        dtype: of the convolutions, see `ResNet`.
        precision: see there.
    """

    architecture: ResNetArchitecture
    features: int
    stride: int
    axis_name: str | None
    dtype: DTypeLike | None
    precision: lax.Precision

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width inputs"], *, train: bool, real: Bool[Array, " batch"] | None
    ) -> Float[Array, "batch out_height out_width outputs"]:
        """Apply the block to feature maps."""
        activate = self.architecture.activate
        convolution = functools.partial(Convolution, self.features, dtype=self.dtype, precision=self.precision)
        pre = activate(BatchNorm(axis_name=self.axis_name, name="bn1")(x, train=train, real=real))
        shortcut = x
        if self.stride != 1 or x.shape[-1] != self.features:
            shortcut = convolution(self.stride, name="shortcut")(pre)
        main = convolution(self.stride, name="conv1")(pre)
        main = activate(BatchNorm(axis_name=self.axis_name, name="bn2")(main, train=train, real=real))
        # Zero, so that training starts from a shallow network (arXiv 1812.01187).
        main = convolution(kernel_init=nn.initializers.zeros, name="conv2")(main)
        return main + shortcut


class ResNet(nn.Module):
    """Pre-activation ResNet: images on the [0,1] scale to logits.

    Variables: `params`; `batch_stats`, the running statistics; `constants`, the channel `mean` and
    `std` with which images are normalised inside the network.

    Attributes:
        architecture: lengths, widths, classes, activation.
        axis_name: mapped axis over which BatchNorm shares its statistics in training.
        dtype: of the 3x3 convolutions and what flows between them, for instance bfloat16; as the
            parameters if None. Parameters, statistics, the head and the logits keep their type.
        precision: of their products, see `Architecture.module`.
    """

    architecture: ResNetArchitecture
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
        arch = self.architecture
        channels = arch.image_shape[2]
        normalisation = (CIFAR10_MEAN, CIFAR10_STD) if channels == 3 else ((0.0,) * channels, (1.0,) * channels)
        mean, std = (
            self.variable("constants", name, functools.partial(jnp.asarray, values, jnp.float32))
            for name, values in zip(("mean", "std"), normalisation, strict=True)
        )
        x = (images - mean.value.reshape(1, 1, 1, -1)) / std.value.reshape(1, 1, 1, -1)
        x = Convolution(arch.stage_widths[0], dtype=self.dtype, precision=self.precision, name="stem")(x)
        for stage, (length, width) in enumerate(zip(arch.stage_lengths, arch.stage_widths, strict=True), start=1):
            for block in range(1, length + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                name = f"stage{stage}_block{block}"
                x = ResidualBlock(arch, width, stride, self.axis_name, self.dtype, self.precision, name=name)(
                    x, train=train, real=real
                )
        x = arch.activate(BatchNorm(axis_name=self.axis_name, name="head_bn")(x, train=train, real=real))
        x = x.astype(jnp.promote_types(x.dtype, images.dtype)).mean((1, 2))
        return Head(arch.n_classes, kernel_init=nn.initializers.he_uniform(), name="head")(x)
