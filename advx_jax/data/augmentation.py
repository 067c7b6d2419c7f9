"""Random flips and crops of uint8 images, on the device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt8

from advx_jax.data.image_set import unit_images


def augment(
    images: UInt8[Array, "batch height width 3"],
    flip: Bool[Array, " batch"],
    offsets: Int[Array, "batch 2"],
    padding: int,
) -> UInt8[Array, "batch height width 3"]:
    """Pad by edge replication, flip left-right, and crop to the old size; exact on uint8.

    Args:
        images: pixels as stored.
        flip: which images to flip.
        offsets: row and column of each crop's corner, 0 to 2·padding.
        padding: pixels on each side.
    """
    sides = (padding, padding)
    padded = jnp.pad(images, ((0, 0), sides, sides, (0, 0)), mode="edge")
    padded = jnp.where(flip[:, None, None, None], padded[:, :, ::-1], padded)
    crop = functools.partial(lax.dynamic_slice, slice_sizes=images.shape[1:])
    corners = jnp.pad(offsets, ((0, 0), (0, 1)))
    return jax.vmap(lambda image, corner: crop(image, tuple(corner)))(padded, corners)


def unit_scale(pixels: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Pixels as float32 on the [0,1] scale, the same values as `unit_images` gives on the host."""
    # Looked up, because compilers turn a division by a constant into a product with its inverse,
    # which differs in the last bit for 126 of the 256 values (docs/method.md, Images and units).
    return jnp.asarray(unit_images(np.arange(256, dtype=np.uint8)))[pixels]
