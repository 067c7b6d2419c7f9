"""The 3x3 convolution of the ResNet, with a backward pass that is fast on CPUs, inside loops too."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_PADDING = 1
# Images whose part of a kernel gradient a CPU computes at a time; 16 and 32 were equally fast, 64 slower.
_CPU_CHUNK = 16


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve3x3(
    x: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "3 3 inputs outputs"],
    stride: int = 1,
    precision: lax.PrecisionLike = lax.Precision.HIGHEST,
) -> Float[Array, "batch out_height out_width outputs"]:
    """3x3 convolution with zero padding 1 on every side, as PyTorch's `Conv2d(padding=1)`.

    Equal to `lax.conv_general_dilated`. Its gradients, and those of its input gradient (which the
    Lipschitz penalty needs), are written as plain NHWC convolutions: inside `scan` and `while_loop`
    XLA's CPU backend runs only that form at full speed, and the automatic gradients many times slower.

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
        _input_gradient(cotangent, kernel, stride, x.shape[1:3], precision),
        _kernel_gradient(x, cotangent, stride, precision),
    )


convolve3x3.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _input_gradient(
    cotangent: Array, kernel: Array, stride: int, size: tuple[int, int], precision: lax.PrecisionLike
) -> Array:
    """Correlate the cotangent, spread out by the stride, with the kernel turned by 180 degrees.

    Args:
        cotangent: of the convolution's output.
        kernel: of the convolution.
        stride: of the convolution.
        size: height and width of the convolution's input.
        precision: of the products.
    """
    padding = [
        (_PADDING, wanted - given * stride + _PADDING) for wanted, given in zip(size, cotangent.shape[1:3], strict=True)
    ]
    return lax.conv_general_dilated(
        _spread_out(cotangent, stride),
        lax.rev(kernel, (0, 1)).swapaxes(2, 3),
        (1, 1),
        padding,
        dimension_numbers=_LAYOUT,
        precision=precision,
    )


def _input_gradient_forward(
    cotangent: Array, kernel: Array, stride: int, size: tuple[int, int], precision: lax.PrecisionLike
) -> tuple[Array, tuple[Array, Array]]:
    return _input_gradient(cotangent, kernel, stride, size, precision), (cotangent, kernel)


def _input_gradient_backward(
    stride: int,
    size: tuple[int, int],  # noqa: ARG001 (custom_vjp passes all arguments that have no gradient)
    precision: lax.PrecisionLike,
    saved: tuple[Array, Array],
    direction: Array,
) -> tuple[Array, Array]:
    # <direction, input gradient> = <convolution of direction, cotangent>, linear in cotangent and kernel.
    cotangent, kernel = saved
    return convolve3x3(direction, kernel, stride, precision), _kernel_gradient(direction, cotangent, stride, precision)


_input_gradient.defvjp(_input_gradient_forward, _input_gradient_backward)


def _spread_out(x: Array, stride: int) -> Array:
    """Put stride - 1 zeros behind each position, in both directions."""
    if stride == 1:
        return x
    # Not `lax.pad` with gaps: XLA makes a convolution with dilated input of that, which CPUs run slowly.
    batch, height, width, channels = x.shape
    gap = (0, stride - 1)
    x = jnp.pad(x[:, :, None, :, None, :], ((0, 0), (0, 0), gap, (0, 0), gap, (0, 0)))
    return x.reshape(batch, height * stride, width * stride, channels)


def _kernel_gradient(x: Array, cotangent: Array, stride: int, precision: lax.PrecisionLike) -> Array:
    """Correlate the padded input with the cotangent: batch and channel axes change places."""
    padding = []
    for given, positions in zip(x.shape[1:3], cotangent.shape[1:3], strict=True):
        spread = (positions - 1) * stride + 1
        padding.append((_PADDING, spread + 2 - given - _PADDING))

    def correlate(x: Array, cotangent: Array) -> Array:
        gradient = lax.conv_general_dilated(
            x.transpose(3, 1, 2, 0),
            cotangent.transpose(1, 2, 0, 3),
            (1, 1),
            padding,
            rhs_dilation=(stride, stride),
            dimension_numbers=_LAYOUT,
            precision=precision,
        )
        return gradient.transpose(1, 2, 0, 3)

    return lax.platform_dependent(x, cotangent, cpu=functools.partial(_in_chunks, correlate), default=correlate)


def _in_chunks(correlate: Callable[[Array, Array], Array], x: Array, cotangent: Array) -> Array:
    """Sum `correlate` over chunks of the batch, in a loop.

    Without the loop XLA's CPU backend computes again whatever led to the two arrays, often whole
    chains of blocks, inside of the transpositions; the loop needs them finished in memory.
    """
    # Sliced inside of the loop: chunks as inputs of the loop would be one more copy, computed anew too.
    whole = len(x) - len(x) % _CPU_CHUNK

    def add_chunk(total: Array, begin: Array) -> tuple[Array, None]:
        rows = (lax.dynamic_slice_in_dim(array, begin, _CPU_CHUNK) for array in (x, cotangent))
        return total + correlate(*rows), None

    total = jnp.zeros((3, 3, x.shape[-1], cotangent.shape[-1]), x.dtype)
    if whole:
        total = lax.scan(add_chunk, total, jnp.arange(0, whole, _CPU_CHUNK))[0]
    if whole < len(x):
        total += correlate(x[whole:], cotangent[whole:])
    return total


class Convolution3x3(nn.Module):
    """`convolve3x3` with a kernel of its own and no bias.

    Attributes:
        features: number of output channels.
        stride: step of the output positions.
        kernel_init: initialiser of the (3, 3, inputs, features) kernel.
        dtype: in which to compute; the types of input and kernel decide if None.
    """

    features: int
    stride: int = 1
    kernel_init: nn.initializers.Initializer = nn.initializers.he_uniform()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch out_height out_width outputs"]:
        """Convolve `x`."""
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.features), jnp.float32)
        dtype = self.dtype or jnp.promote_types(x.dtype, kernel.dtype)
        return convolve3x3(x.astype(dtype), kernel.astype(dtype), self.stride)
