"""3x3 correlation with 16 products where the definition takes 36 (Lavin and Gray, arXiv 1509.09308, F(2x2, 3x3)).

Each tile of 2x2 outputs comes out of 4x4 inputs. Tiles and kernel are transformed, multiplied as 16 matrices, and
transformed back; the transformations only add. Rounding errors are a few times those of the definition.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_SIDE = 4


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
    batch, *size, inputs = x.shape
    outputs = [extent + sum(both) - 2 for extent, both in zip(size, padding, strict=True)]
    tiles = [-(-extent // 2) for extent in outputs]
    # Whole tiles: whatever an odd size lacks are zeros, and what comes of them is cut off.
    around = [(before, behind + extent % 2, 0) for (before, behind), extent in zip(padding, outputs, strict=True)]
    padded = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *around, (0, 0, 0)])
    # In memory, or its making would be repeated for each of the 16 views that follow.
    padded = lax.optimization_barrier(padded)

    def view(row: int, column: int) -> Array:
        """One position of all tiles, as a matrix."""
        rows, columns = (slice(at, at + 2 * n - 1, 2) for at, n in zip((row, column), tiles, strict=True))
        return padded[:, rows, columns].reshape(-1, inputs)

    views = [[view(row, column) for column in range(_SIDE)] for row in range(_SIDE)]
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
