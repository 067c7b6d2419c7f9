"""The 3x3 convolution of the ResNet, with a backward pass that is fast inside loops on a CPU."""

import functools

import jax
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_PADDING = 1


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve3x3(
    x: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "3 3 inputs outputs"],
    stride: int = 1,
    precision: lax.PrecisionLike = lax.Precision.HIGHEST,
) -> Float[Array, "batch out_height out_width outputs"]:
    """3x3 convolution with zero padding 1 on every side, as PyTorch's `Conv2d(padding=1)`.

    Equal to `lax.conv_general_dilated`, twice differentiable in both arguments. Its input gradient
    is written as one more plain NHWC convolution: inside `scan` and `while_loop` XLA's CPU backend
    runs only that form at full speed, and the automatic gradient six times slower.

    Args:
        x: images or feature maps.
        kernel: weights, spatial axes first.
        stride: step of the output positions, in both directions.
        precision: of the products; the highest (true float32) unless asked otherwise.
    """
    padding = ((_PADDING, _PADDING), (_PADDING, _PADDING))
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=_LAYOUT, precision=precision
    )


def _forward(x: Array, kernel: Array, stride: int, precision: lax.PrecisionLike) -> tuple[Array, tuple[Array, Array]]:
    return convolve3x3(x, kernel, stride, precision), (x, kernel)


def _backward(
    stride: int, precision: lax.PrecisionLike, saved: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    return (
        _input_gradient(cotangent, kernel, stride, x.shape, precision),
        _kernel_gradient(x, cotangent, stride, precision),
    )


convolve3x3.defvjp(_forward, _backward)


def _input_gradient(
    cotangent: Array, kernel: Array, stride: int, shape: tuple[int, ...], precision: lax.PrecisionLike
) -> Array:
    """Correlate the cotangent, spread out by the stride, with the kernel turned by 180 degrees."""
    turned = lax.rev(kernel, (0, 1)).swapaxes(2, 3)
    if stride == 1:
        # Its own gradient is needed too (the Lipschitz penalty), in the same fast form.
        return convolve3x3(cotangent, turned, 1, precision)
    padding = []
    for wanted, given in zip(shape[1:3], cotangent.shape[1:3], strict=True):
        spread = (given - 1) * stride + 1
        padding.append((_PADDING, wanted - spread + _PADDING))
    return lax.conv_general_dilated(
        cotangent,
        turned,
        (1, 1),
        padding,
        lhs_dilation=(stride, stride),
        dimension_numbers=_LAYOUT,
        precision=precision,
    )


def _kernel_gradient(x: Array, cotangent: Array, stride: int, precision: lax.PrecisionLike) -> Array:
    """Correlate the padded input with the cotangent: batch and channel axes change places."""
    padding = []
    for given, positions in zip(x.shape[1:3], cotangent.shape[1:3], strict=True):
        spread = (positions - 1) * stride + 1
        padding.append((_PADDING, spread + 2 - given - _PADDING))
    return lax.conv_general_dilated(
        x,
        cotangent,
        (1, 1),
        padding,
        rhs_dilation=(stride, stride),
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        precision=precision,
    )


class Convolution3x3(nn.Module):
    """`convolve3x3` with a kernel of its own and no bias.

    Attributes:
        features: number of output channels.
        stride: step of the output positions.
        kernel_init: initialiser of the (3, 3, inputs, features) kernel.
    """

    features: int
    stride: int = 1
    kernel_init: nn.initializers.Initializer = nn.initializers.he_uniform()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch out_height out_width outputs"]:
        """Convolve `x`."""
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.features))
        return convolve3x3(x, kernel, self.stride)
