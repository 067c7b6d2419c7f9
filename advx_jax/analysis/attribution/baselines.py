"""Images that stand for the absence of what an image shows."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from advx_jax.attacks.arrays import Images, Keys
from advx_jax.attacks.base import Number

Baseline = Literal["black", "mean", "blurred", "random"]
"""Black; the image's own mean colour; the image blurred; noise, uniform in [0,1], drawn for each image."""


def baseline_images(baseline: Baseline, images: Images, keys: Keys, blur: Number) -> Images:
    """A baseline for each image.

    Args:
        baseline: which.
        images: x; to be blurred (batch, height, width, channels).
        keys: of each example's random draws.
        blur: standard deviation of the Gaussian that blurs, in pixels.
    """
    if baseline == "black":
        return jnp.zeros_like(images)
    if baseline == "mean":
        positions = tuple(range(1, images.ndim - 1)) or (1,)
        return jnp.broadcast_to(images.mean(positions, keepdims=True), images.shape)
    if baseline == "random":
        return jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:], images.dtype))(keys)
    return blurred(images, blur)


def blurred(
    images: Float[Array, "batch height width channels"], blur: Number
) -> Float[Array, "batch height width channels"]:
    """Images blurred by a Gaussian of a standard deviation in pixels; what lies outside counts for nothing."""
    rows, columns = (_smoothing(size, blur, images.dtype) for size in images.shape[1:3])
    exact = jax.lax.Precision.HIGHEST
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, images, precision=exact)


def _smoothing(size: int, blur: Number, dtype: jnp.dtype) -> Float[Array, "size size"]:
    """Weights of all places in the mean at each place."""
    places = jnp.arange(size, dtype=dtype)
    # A softmax cannot divide by 0, however narrow the Gaussian.
    return jax.nn.softmax(-jnp.square(places[:, None] - places) / (2 * blur**2), axis=1)
