"""Images that are in memory, brought to the size and channels that a network takes when they are asked for."""

import dataclasses
import hashlib

import numpy as np

from advx_jax.data.decoding import Wanted, fit_pixels
from advx_jax.data.image_set import ImageSet
from advx_jax.data.lazy_pixels import LazyPixels
from advx_jax.messages import size_in_words


def resized(data: ImageSet, wanted: Wanted) -> ImageSet:
    """Bring images to what is wanted, as image files are brought to it; those that are so already stay as they are."""
    height, width, channels = data.images.shape[1:]
    shape = *(wanted.size or (height, width)), wanted.channels or channels
    if shape == (height, width, channels):
        return data
    exactly = Wanted(shape[:2], shape[2])

    def read(places: np.ndarray) -> np.ndarray:
        if not len(places):
            return np.zeros((0, *shape), np.uint8)
        return np.stack([fit_pixels(pixels, exactly) for pixels in data.images[places]])

    def identity() -> bytes:
        return hashlib.sha256(f"{data.fingerprint} {shape}".encode()).digest()

    source = f"{data.source}, {size_in_words((height, width, channels))} brought to {size_in_words(shape)}"
    pixels = LazyPixels((len(data), *shape), read, identity)
    return dataclasses.replace(data, images=pixels, source=source)
