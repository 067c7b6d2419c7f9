"""3x3 correlation with 16 products where the definition takes 36 (Lavin and Gray, arXiv 1509.09308, F(2x2, 3x3)).

Each tile of 2x2 outputs comes out of 4x4 inputs. Tiles and kernel are transformed, multiplied as 16 matrices, and
transformed back; the transformations only add. Rounding errors are a few times those of the definition. The gradient
of the kernel is the same in reverse: of inputs and cotangents, both transformed, 16 products are transformed back.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

_SIDE = 4
# Of fewer bits even a sum of a few inputs, as tiles are made of, is rounded noticeably.
_EXACT_TYPES = (jnp.float32, jnp.float64)


def fits_tiles(extents: Sequence[int], dtype: DTypeLike) -> bool:
    """Whether a kernel of so many rows and columns, in numbers of a type, can be applied in tiles."""
    return tuple(extents) == (3, 3) and dtype in _EXACT_TYPES


# Traced once for each shape: a network has many convolutions of the same.
@functools.partial(jax.jit, static_argnames=("padding", "precision", "turned"))
def correlate_3x3(
    x: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "3 3 _ _"],
    padding: tuple[tuple[int, int], tuple[int, int]],
    precision: lax.PrecisionLike,
    *,
    turned: bool = False,
) -> Float[Array, "batch out_height out_width outputs"]:
    """Correlate `x` with a kernel, at stride 1.

    Args:
        x: images or feature maps.
        kernel: weights, (3, 3, inputs, outputs).
        padding: zeros before and behind the rows, and before and behind the columns; fewer than none cut off.
        precision: of the products.
        turned: whether to turn the kernel by 180 degrees and to exchange its channel axes, (3, 3, outputs, inputs).
    """
    batch, *size, _ = x.shape
    outputs = [extent + sum(both) - 2 for extent, both in zip(size, padding, strict=True)]
    tiles = [-(-extent // 2) for extent in outputs]
    views = _inputs_of_tiles(x, tiles, padding)
    order = (2, 1, 0) if turned else (0, 1, 2)
    weights = [[kernel[row, column] for column in order] for row in order]
    contracted = (((1,), (1 if turned else 0,)), ((), ()))
    products = [
        [lax.dot_general(*pair, contracted, precision=precision) for pair in zip(*rows, strict=True)]
        for rows in zip(_both_ways(views, _of_inputs), _both_ways(weights, _of_kernel), strict=True)
    ]
    quarters = _both_ways(products, _back)
    columns = [jnp.stack([q.reshape(batch, *tiles, -1) for q in row], 3) for row in quarters]
    whole = jnp.stack(columns, 2).reshape(batch, 2 * tiles[0], 2 * tiles[1], -1)
    return whole[:, : outputs[0], : outputs[1]]


@functools.partial(jax.jit, static_argnames=("before", "precision"))
def kernel_gradient_3x3(
    x: Float[Array, "batch height width inputs"],
    cotangent: Float[Array, "batch out_height out_width outputs"],
    before: tuple[int, int],
    precision: lax.PrecisionLike,
) -> Float[Array, "3 3 inputs outputs"]:
    """Gradient of `correlate_3x3`'s kernel, not turned.

    Args:
        x: what was correlated.
        cotangent: of the result.
        before: zeros before the rows and before the columns of `x`.
        precision: of the products.
    """
    tiles = [-(-extent // 2) for extent in cotangent.shape[1:3]]
    views = _inputs_of_tiles(x, tiles, [(zeros, 0) for zeros in before])
    whole = _padded(cotangent, [(0, 2 * n - size) for n, size in zip(tiles, cotangent.shape[1:3], strict=True)])
    quarters = [[whole[:, row::2, column::2].reshape(-1, whole.shape[3]) for column in (0, 1)] for row in (0, 1)]
    over_tiles = (((0,), (0,)), ((), ()))
    products = [
        [lax.dot_general(*pair, over_tiles, precision=precision) for pair in zip(*rows, strict=True)]
        for rows in zip(_both_ways(views, _of_inputs), _both_ways(quarters, _of_cotangents), strict=True)
    ]
    return jnp.stack([jnp.stack(row) for row in _both_ways(products, _back_to_kernel)])


def _inputs_of_tiles(x: Array, tiles: Sequence[int], padding: Sequence[tuple[int, int]]) -> list[list[Array]]:
    """Each of the 4x4 positions of all tiles, as a matrix.

    Zeros complete the last tiles; what comes of those beyond the padding counts nowhere.
    """
    extents = [2 * n + 2 for n in tiles]
    missing = [extent - size - sum(both) for extent, size, both in zip(extents, x.shape[1:3], padding, strict=True)]
    padded = _padded(x, [(before, behind + more) for (before, behind), more in zip(padding, missing, strict=True)])
    # In memory, or its making would be repeated for each of the 16 views that follow.
    padded = lax.optimization_barrier(padded)

    def view(row: int, column: int) -> Array:
        rows, columns = (slice(at, at + 2 * n - 1, 2) for at, n in zip((row, column), tiles, strict=True))
        return padded[:, rows, columns].reshape(-1, x.shape[3])

    return [[view(row, column) for column in range(_SIDE)] for row in range(_SIDE)]


def _padded(x: Array, around: Sequence[tuple[int, int]]) -> Array:
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*both, 0) for both in around), (0, 0, 0)])


def _both_ways(values: list[list[Array]], transform: Callable[..., Sequence[Array]]) -> list[list[Array]]:
    """Transform the columns of a square of arrays, then its rows."""
    columns = [transform(*column) for column in zip(*values, strict=True)]
    return [list(transform(*row)) for row in zip(*columns, strict=True)]


def _of_inputs(a: Array, b: Array, c: Array, d: Array) -> tuple[Array, ...]:
    return a - c, b + c, c - b, b - d


def _of_kernel(a: Array, b: Array, c: Array) -> tuple[Array, ...]:
    ends = a + c
    return a, (ends + b) / 2, (ends - b) / 2, c


def _back(a: Array, b: Array, c: Array, d: Array) -> tuple[Array, ...]:
    return a + b + c, b - c - d


def _of_cotangents(a: Array, b: Array) -> tuple[Array, ...]:
    return a, a + b, a - b, -b


def _back_to_kernel(a: Array, b: Array, c: Array, d: Array) -> tuple[Array, ...]:
    ends = (b + c) / 2
    return a + ends, (b - c) / 2, ends + d
