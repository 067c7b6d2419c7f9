"""The gradient of a convolution's kernel: correlations of its inputs with the cotangents of its outputs."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from advx_jax.networks.layouts import LAYOUT
from advx_jax.networks.winograd import fits_tiles, kernel_gradient_3x3

# Images that a CPU correlates at a time where it does so directly; 16 and 32 were equally fast in a step, 64 slower.
_DIRECT_CHUNK = 16
# Channels of input and of output from which on a CPU takes tiles of so many positions at a time: a training step of
# PreActResNet-18, 64 images, takes 0.6 to 0.9 of the time then. With 32 channels nothing was gained. A quarter of the
# positions was slower where maps are small (many matrices of few rows), four times as many where they are large.
_LEAST_TILED = 64
_TILED_POSITIONS = 1024


@functools.partial(jax.jit, static_argnames=("extents", "stride", "padding", "precision"), inline=True)
def kernel_gradient(
    x: Float[Array, "batch height width inputs"],
    cotangent: Float[Array, "batch out_height out_width outputs"],
    extents: tuple[int, int],
    stride: int,
    padding: tuple[tuple[int, int], tuple[int, int]],
    precision: lax.PrecisionLike,
) -> Float[Array, "rows columns inputs outputs"]:
    """Gradient of `convolve`'s kernel.

    Args:
        x: what was convolved.
        cotangent: of the result.
        extents: rows and columns of the kernel.
        stride: of the convolution.
        padding: of the convolution.
        precision: of the products.
    """
    around = []
    for given, positions, extent, (before, _) in zip(x.shape[1:3], cotangent.shape[1:3], extents, padding, strict=True):
        spread = (positions - 1) * stride + 1
        around.append((before, spread + extent - 1 - given - before))

    def directly(x: Array, cotangent: Array) -> Array:
        # Batch and channel axes change places.
        gradient = lax.conv_general_dilated(
            x.transpose(3, 1, 2, 0),
            cotangent.transpose(1, 2, 0, 3),
            (1, 1),
            around,
            rhs_dilation=(stride, stride),
            dimension_numbers=LAYOUT,
            precision=precision,
        )
        return gradient.transpose(1, 2, 0, 3)

    def in_tiles(x: Array, cotangent: Array) -> Array:
        return kernel_gradient_3x3(x, cotangent, (padding[0][0], padding[1][0]), precision)

    def as_product(x: Array, cotangent: Array) -> Array:
        met = x[:, ::stride, ::stride].reshape(-1, x.shape[3])
        by = cotangent.reshape(-1, cotangent.shape[3])
        return lax.dot_general(met, by, (((0,), (0,)), ((), ())), precision=precision)[None, None]

    def on_cpu(x: Array, cotangent: Array) -> Array:
        if extents == (1, 1) and padding == ((0, 0), (0, 0)):
            return as_product(x, cotangent)
        length = _DIRECT_CHUNK
        gradient = directly
        if stride == 1 and min(x.shape[3], cotangent.shape[3]) >= _LEAST_TILED and fits_tiles(extents, x.dtype):
            length = max(1, _TILED_POSITIONS // max(1, cotangent.shape[1] * cotangent.shape[2]))
            gradient = in_tiles
        return _summed_over_chunks(gradient, x, cotangent, chunk_length(len(x), length))

    return lax.platform_dependent(x, cotangent, cpu=on_cpu, default=directly)


def chunk_length(n_images: int, wanted: int) -> int:
    """How many images to work on at once: the divisor of their number nearest to what is wanted.

    Within a factor of two; if there is none, all.
    """
    near = [n for n in range(-(-wanted // 2), 2 * wanted + 1) if n <= n_images and n_images % n == 0]
    return min(near, key=lambda n: abs(n - wanted), default=n_images)


def _summed_over_chunks(function: Callable[[Array, Array], Array], x: Array, y: Array, length: int) -> Array:
    """Sum a function of pairs of images over chunks of so many.

    Without a loop XLA's CPU backend computes again whatever led to the two arrays, often whole chains of blocks,
    where the function moves their values; the loop, or else the barrier, needs them finished in memory.
    """
    if length == len(x):
        return function(*lax.optimization_barrier((x, y)))

    def add_chunk(total: Array, begin: Array) -> tuple[Array, None]:
        # Sliced inside of the loop: chunks as inputs of the loop would be one more copy, computed anew too.
        return total + function(*(lax.dynamic_slice_in_dim(array, begin, length) for array in (x, y))), None

    one = jax.eval_shape(function, x[:length], y[:length])
    return lax.scan(add_chunk, jnp.zeros(one.shape, one.dtype), jnp.arange(0, len(x), length))[0]
