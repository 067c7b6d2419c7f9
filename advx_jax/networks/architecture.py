"""What is known of a network apart from its numbers."""

import abc

from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike


class Architecture(abc.ABC):
    """What must be known to build a network; its subclasses are frozen dataclasses, one for each family."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """As such networks are called: ResNet-44, WideResNet-28-10."""

    @property
    @abc.abstractmethod
    def n_classes(self) -> int:
        """K, the number of classes."""

    @property
    @abc.abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images that it is made for; it takes images of other sizes as well."""

    @property
    @abc.abstractmethod
    def activation(self) -> str:
        """Name of the activation function."""

    @property
    @abc.abstractmethod
    def n_blocks(self) -> int:
        """Number of residual blocks."""

    @property
    def identity(self) -> str:
        """What tells it from every other architecture, as text; part of a network's fingerprint."""
        return repr(self)

    @abc.abstractmethod
    def module(
        self,
        axis_name: str | None = None,
        dtype: DTypeLike | None = None,
        precision: lax.Precision = lax.Precision.HIGHEST,
    ) -> nn.Module:
        """The network without its numbers.

        Called with `(images, *, train=False, real=None)`, it gives logits (batch, classes) of NHWC images on the
        [0,1] scale. Its variables are `params`; `batch_stats`, the running statistics; and `constants`, the
        channel `mean` and `std` with which images are normalised inside of the network.

        Args:
            axis_name: mapped axis over which BatchNorm shares its statistics in training.
            dtype: of the convolutions and what flows between them, for instance bfloat16; as the
                parameters if None. Parameters, statistics, the head and the logits keep their type.
            precision: of the convolutions' products, which matters on accelerators only: true float32 by the highest,
                TF32's 10 bits on GPUs by `HIGH`.
        """
