"""Correlation of maps with few channels: neighbouring columns of the output are computed together, as more channels.

On a CPU a convolution is a matrix product whose width is the number of output channels, and one that is narrow uses
half of the processor or less. Two columns of 16 channels are as wide as 32 channels; a kernel that is a column wider
makes them, with zeros where a column of the output doesn't meet one of the input. Zeros are multiplied too: a third
more products for two columns of a 3x3 kernel, at up to twice the speed. NVIDIA GPUs gain too: a seventh of the time of
a whole gradient (docs/results.md).
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from advx_jax.networks.layouts import LAYOUT

# Values of all columns together for which the product is fast; twice as many were slower for each number of channels.
_FAST_WIDTH = 32
# From 32 channels of the input on, the product of a single column is long enough to be as fast.
_MOST_INPUTS = 16


def grouped_columns(width: int, inputs: int, outputs: int) -> int:
    """The number of columns that are best computed together: a power of two that divides the width.

    Args:
        width: of the output.
        inputs: channels of the input.
        outputs: channels of the output.
    """
    columns = 1
    while inputs <= _MOST_INPUTS and width % (2 * columns) == 0 and 2 * columns * outputs <= _FAST_WIDTH:
        columns *= 2
    return columns


def correlate_columns(
    x: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "rows columns inputs outputs"],
    columns: int,
    padding: Sequence[tuple[int, int]],
    precision: lax.PrecisionLike,
) -> Float[Array, "batch out_height out_width outputs"]:
    """Correlate `x` with a kernel, at stride 1.

    Args:
        x: images or feature maps.
        kernel: weights.
        columns: how many of the output to compute together; they divide its width.
        padding: zeros before and behind the rows, and before and behind the columns; fewer than none cut off.
        precision: of the products.
    """
    shifted = [jnp.pad(kernel, ((0, 0), (at, columns - 1 - at), (0, 0), (0, 0))) for at in range(columns)]
    together = lax.conv_general_dilated(
        x, jnp.concatenate(shifted, 3), (1, columns), padding, dimension_numbers=LAYOUT, precision=precision
    )
    # Columns lie side by side in memory as channels do, so that nothing is moved.
    batch, height, groups, _ = together.shape
    return together.reshape(batch, height, groups * columns, kernel.shape[3])
