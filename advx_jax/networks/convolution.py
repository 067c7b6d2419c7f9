"""Two-dimensional convolution with a backward pass that is fast on CPUs, inside loops too."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from advx_jax.networks.column_groups import correlate_columns, grouped_columns
from advx_jax.networks.kernel_gradients import kernel_gradient
from advx_jax.networks.layouts import LAYOUT
from advx_jax.networks.winograd import correlate_3x3, fits_tiles

Padding = tuple[tuple[int, int], tuple[int, int]]
"""Zeros before and behind the rows, and before and behind the columns."""

# Channels of input and of output from which on a 3x3 convolution is faster in tiles; with fewer, transforming them
# takes what the smaller number of products saves.
_LEAST_TILED = 32


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolve(
    x: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "rows columns inputs outputs"],
    stride: int = 1,
    padding: Padding | None = None,
    precision: lax.PrecisionLike = lax.Precision.HIGHEST,
) -> Float[Array, "batch out_height out_width outputs"]:
    """Convolution with zero padding, as PyTorch's `Conv2d`.

    Equal to `lax.conv_general_dilated`. Its gradients, and those of its input gradient (which the
    Lipschitz penalty needs), are written as plain NHWC convolutions: inside `scan` and `while_loop`
    XLA's CPU backend runs only that form at full speed, and the automatic gradients many times slower.
    There, tiles of outputs (`winograd`) or groups of columns (`column_groups`, on GPUs too) replace what they
    are faster than; the sums are the same up to rounding.

    Args:
        x: images or feature maps.
        kernel: weights, spatial axes first.
        stride: step of the output positions, in both directions.
        padding: zeros around `x`; half a kernel on every side if None, which keeps the size at stride 1.
        precision: of the products; the highest (true float32) unless asked otherwise.
    """
    padding = _padding_of(kernel, padding)
    if stride == 1:
        return _correlate(x, kernel, padding, precision)
    if kernel.shape[:2] == (1, 1) and padding == ((0, 0), (0, 0)):
        return _correlate(x[:, ::stride, ::stride], kernel, padding, precision)
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=LAYOUT, precision=precision)


# Inlined, so that programs stay what they are; traced once for all layers of a shape, which halves what tracing takes.
@functools.partial(jax.jit, static_argnames=("padding", "precision", "turned"), inline=True)
def _correlate(
    x: Array, kernel: Array, padding: Padding, precision: lax.PrecisionLike, *, turned: bool = False
) -> Array:
    """Convolution with stride 1, if asked with the kernel turned by 180 degrees and its channel axes exchanged."""
    inputs, outputs = kernel.shape[3:1:-1] if turned else kernel.shape[2:]
    # Two of the ways don't have to turn the kernel in memory, which takes long where there are many channels.
    if kernel.shape[:2] == (1, 1):
        around = [(0, 0, 0), *((*both, 0) for both in padding), (0, 0, 0)]
        padded = lax.pad(x, jnp.zeros((), x.dtype), around)
        return lax.dot_general(padded, kernel[0, 0], (((3,), (1 if turned else 0,)), ((), ())), precision=precision)

    def as_asked(kernel: Array) -> Array:
        return lax.rev(kernel, (0, 1)).swapaxes(2, 3) if turned else kernel

    def directly(x: Array, kernel: Array) -> Array:
        kernel = as_asked(kernel)
        return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=LAYOUT, precision=precision)

    def in_groups(x: Array, kernel: Array) -> Array:
        return correlate_columns(x, as_asked(kernel), columns, padding, precision)

    def in_tiles(x: Array, kernel: Array) -> Array:
        return correlate_3x3(x, kernel, padding, precision, turned=turned)

    columns = grouped_columns(x.shape[2] + sum(padding[1]) - kernel.shape[1] + 1, inputs, outputs)
    if min(inputs, outputs) >= _LEAST_TILED and fits_tiles(kernel.shape[:2], x.dtype):
        return lax.platform_dependent(x, kernel, cpu=in_tiles, default=directly)
    if columns > 1:
        # On GPUs measured with float32 and TF32 products only.
        on_gpu = in_groups if x.dtype == jnp.float32 else directly
        return lax.platform_dependent(x, kernel, cpu=in_groups, cuda=on_gpu, default=directly)
    return directly(x, kernel)


def _padding_of(kernel: Array, padding: Padding | None) -> Padding:
    rows, columns = kernel.shape[0] // 2, kernel.shape[1] // 2
    return ((rows, rows), (columns, columns)) if padding is None else padding


def _forward(
    x: Array, kernel: Array, stride: int, padding: Padding | None, precision: lax.PrecisionLike
) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel, stride, padding, precision), (x, kernel)


def _backward(
    stride: int,
    padding: Padding | None,
    precision: lax.PrecisionLike,
    saved: tuple[Array, Array],
    cotangent: Array,
) -> tuple[Array, Array]:
    x, kernel = saved
    padding = _padding_of(kernel, padding)
    return (
        _input_gradient(cotangent, kernel, stride, padding, x.shape[1:3], precision),
        kernel_gradient(x, cotangent, kernel.shape[:2], stride, padding, precision),
    )


convolve.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _input_gradient(
    cotangent: Array,
    kernel: Array,
    stride: int,
    padding: Padding,
    size: tuple[int, int],
    precision: lax.PrecisionLike,
) -> Array:
    """Correlate the cotangent with the kernel turned by 180 degrees.

    Args:
        cotangent: of the convolution's output.
        kernel: of the convolution.
        stride: of the convolution.
        padding: of the convolution.
        size: height and width of the convolution's input.
        precision: of the products.
    """
    rows, columns = (
        [_phase(phase, *each, stride) for phase in range(stride)]
        for each in zip(size, cotangent.shape[1:3], kernel.shape[:2], padding, strict=True)
    )

    def correlate(row: _Phase, column: _Phase) -> Array:
        taps = kernel[row.first :: stride, column.first :: stride]
        if 0 in taps.shape:
            return jnp.zeros((len(cotangent), row.positions, column.positions, kernel.shape[2]), cotangent.dtype)
        around = (row.padding, column.padding)
        return _correlate(cotangent, taps, around, precision, turned=True)

    gradient = jnp.stack([jnp.stack([correlate(row, column) for column in columns], 3) for row in rows], 2)
    batch, height, _, width, _, inputs = gradient.shape
    return gradient.reshape(batch, height * stride, width * stride, inputs)[:, : size[0], : size[1]]


class _Phase(NamedTuple):
    """What each stride-th position of a convolution's input, from a certain one on, meets.

    Attributes:
        first: of the kernel's rows (or columns) that it meets; these too are a stride apart.
        positions: their number.
        padding: of the cotangent, so that there are as many.
    """

    first: int
    positions: int
    padding: tuple[int, int]


def _phase(phase: int, size: int, outputs: int, extent: int, padding: tuple[int, int], stride: int) -> _Phase:
    skipped, first = divmod(phase + padding[0], stride)
    positions, taps = -(-size // stride), len(range(first, extent, stride))
    return _Phase(first, positions, (taps - 1 - skipped, skipped + positions - outputs))


def _input_gradient_forward(
    cotangent: Array,
    kernel: Array,
    stride: int,
    padding: Padding,
    size: tuple[int, int],
    precision: lax.PrecisionLike,
) -> tuple[Array, tuple[Array, Array]]:
    return _input_gradient(cotangent, kernel, stride, padding, size, precision), (cotangent, kernel)


def _input_gradient_backward(
    stride: int,
    padding: Padding,
    size: tuple[int, int],  # noqa: ARG001 (custom_vjp passes all arguments that have no gradient)
    precision: lax.PrecisionLike,
    saved: tuple[Array, Array],
    direction: Array,
) -> tuple[Array, Array]:
    # <direction, input gradient> = <convolution of direction, cotangent>, linear in cotangent and kernel.
    cotangent, kernel = saved
    return (
        convolve(direction, kernel, stride, padding, precision),
        kernel_gradient(direction, cotangent, kernel.shape[:2], stride, padding, precision),
    )


_input_gradient.defvjp(_input_gradient_forward, _input_gradient_backward)


class Convolution(nn.Module):
    """`convolve` with a kernel of its own and no bias.

    Attributes:
        features: number of output channels.
        stride: step of the output positions.
        extent: rows and columns of the kernel, the same number.
        padding: zeros around the input, see `convolve`.
        kernel_init: initialiser of the (extent, extent, inputs, features) kernel.
        dtype: in which to compute; the types of input and kernel decide if None.
        precision: see `convolve`.
    """

    features: int
    stride: int = 1
    extent: int = 3
    padding: Padding | None = None
    kernel_init: nn.initializers.Initializer = nn.initializers.he_uniform()
    dtype: DTypeLike | None = None
    precision: lax.Precision = lax.Precision.HIGHEST

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch out_height out_width outputs"]:
        """Convolve `x`."""
        shape = (self.extent, self.extent, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        dtype = self.dtype or jnp.promote_types(x.dtype, kernel.dtype)
        return convolve(x.astype(dtype), kernel.astype(dtype), self.stride, self.padding, self.precision)
