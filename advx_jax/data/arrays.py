"""Arrays of images and labels that somebody gives, checked and made into an `ImageSet`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from advx_jax.data.decoding import CHANNELS
from advx_jax.data.image_set import ImageSet, Labels, numbered_classes
from advx_jax.errors import UserError
from advx_jax.messages import shown

_GREY_DIMENSIONS, _DIMENSIONS = 3, 4
# Float images are looked at in blocks, so that no second copy of all is needed.
_BLOCK = 1024


def image_set_of(images: Any, labels: Any, class_names: Any, source: str) -> ImageSet:
    """Make an `ImageSet` of arrays.

    Args:
        images: NHWC, or NHW for grey; uint8, or floats on the [0,1] scale, which are rounded to 8 bits.
        labels: whole numbers from 0, one for each image.
        class_names: texts; None where classes have numbers only.
        source: in words, where they come from.

    Raises:
        UserError: they are nothing of the kind, or do not fit together.
    """
    pixels, rounded = _pixels(_array(images, "images", source), source)
    y = _labels(_array(labels, "labels", source), len(pixels), source)
    largest = int(y.max())
    source += ", rounded to 8 bits" if rounded else ""
    if class_names is None:
        return ImageSet(pixels, y, numbered_classes(largest + 1), source, class_names_given=False)
    names = _names(class_names, source)
    if largest >= len(names):
        raise UserError(
            f"expected labels from 0 to {len(names) - 1} for {len(names)} class names in {source}, got {largest}"
        )
    return ImageSet(pixels, y, names, source)


def _array(values: Any, what: str, source: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except Exception as error:  # It may be anything.
        raise UserError(f"expected {what} as an array in {source}, got {type(values).__name__}: {error}") from error


def _pixels(images: np.ndarray, source: str) -> tuple[UInt8[np.ndarray, "n height width channels"], bool]:
    """Pixels, and whether they were rounded."""
    if images.ndim == _GREY_DIMENSIONS:
        images = images[..., None]
    expected = "expected images of shape (n, height, width) or (n, height, width, 1, 3 or 4)"
    if images.ndim != _DIMENSIONS or 0 in images.shape:
        raise UserError(f"{expected} in {source}, got shape {shown(str(images.shape))}")
    if images.shape[-1] not in CHANNELS:
        turned = "; images.transpose(0, 2, 3, 1) puts the channels last" if images.shape[1] in CHANNELS else ""
        raise UserError(f"{expected} in {source}, got shape {images.shape}{turned}")
    if images.dtype == np.uint8:
        return images, False
    if images.dtype.kind != "f":
        raise UserError(f"expected images of type uint8, or floats from 0 to 1, in {source}, got {images.dtype}")
    pixels = np.empty(images.shape, np.uint8)
    rounded = False
    for begin in range(0, len(images), _BLOCK):
        block = images[begin : begin + _BLOCK].astype(np.float32)
        lowest, highest = float(block.min()), float(block.max())
        # What is NaN is neither.
        if not (lowest >= 0 and highest <= 1):
            hint = "; divide by 255" if lowest >= 0 and 1 < highest <= 255 else ""
            raise UserError(f"expected float images from 0 to 1 in {source}, got {lowest:g} to {highest:g}{hint}")
        pixels[begin : begin + _BLOCK] = np.round(block * 255)
        back = pixels[begin : begin + _BLOCK].astype(np.float32) / np.float32(255)
        rounded = rounded or not np.allclose(back, block, rtol=0, atol=1e-6)
    return pixels, rounded


def _labels(labels: np.ndarray, n_images: int, source: str) -> Labels:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise UserError(
            f"expected labels as whole numbers, of shape (n,), in {source}, "
            f"got {labels.dtype} of shape {shown(str(labels.shape))}"
        )
    if len(labels) != n_images:
        raise UserError(f"expected a label for each of {n_images} images in {source}, got {len(labels)}")
    if (lowest := int(labels.min())) < 0 or int(labels.max()) >= 2**31:
        raise UserError(f"expected labels from 0 in {source}, got {lowest if lowest < 0 else int(labels.max())}")
    return labels.astype(np.int64)


def _names(values: Any, source: str) -> tuple[str, ...]:
    flat: Sequence[Any] = np.asarray(values).ravel().tolist() if not isinstance(values, str) else [values]
    names = tuple(value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in flat)
    if isinstance(values, str) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError(f"expected class names as texts in {source}, got {shown(values)}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"expected different class names in {source}, got {shown(twice)} twice")
    return names
