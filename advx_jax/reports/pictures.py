"""Images as pixels and PNG files."""

import io
import math
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from advx_jax.errors import UserError
from advx_jax.files import atomic_write

# The one pixel in a hundred that changes most would otherwise turn the rest of the map into grey.
_UNSATURATED_PERCENT = 99.0
_RGBA = 4
_COLOURS = (3, _RGBA)


def to_pixels(images: Float[np.ndarray, "*shape channels"]) -> UInt8[np.ndarray, "*shape channels"]:
    """Round images to pixels: uint8(clip(255·v + 0.5, 0, 255)), as published (docs/method.md, Explanations).

    Args:
        images: values on the [0, 1] scale; those outside of it (attacks do not clip) are clipped.
            NaN, which no picture can show, becomes 0.

    Returns:
        Pixels, the same shape.
    """
    return np.nan_to_num(np.clip(255 * images + 0.5, 0, 255), nan=0.0).astype(np.uint8)


def difference_scale(perturbations: Float[np.ndarray, "targets height width channels"]) -> float:
    """The change that a difference map shows at full strength, one for all classes of an image.

    Args:
        perturbations: explanation minus input, for every class.

    Returns:
        The absolute change that 99 % of all finite values stay below; 0 if nothing changed.
    """
    sizes = np.abs(perturbations[np.isfinite(perturbations)])
    return float(np.percentile(sizes, _UNSATURATED_PERCENT)) if sizes.size else 0.0


def difference_map(
    perturbation: Float[np.ndarray, "height width channels"], scale: float
) -> UInt8[np.ndarray, "height width shown_channels"]:
    """A picture of what an explanation added and removed: pixels of 0.5 + perturbation/(2·scale).

    Mid-grey is unchanged; a brighter channel was raised, a darker one lowered. The maps of one image
    can be compared only if all of them have the same scale (`difference_scale`): on its own scale
    each, a class that hardly changed the image would look like one that changed it a lot.

    Args:
        perturbation: explanation minus input, on the [0, 1] scale. Of RGBA, changes of colours only are shown.
        scale: the change that is shown at full strength, more is clipped; 0 shows no change at all.

    Raises:
        UserError: the scale is negative or not finite.
    """
    if not (math.isfinite(scale) and scale >= 0):
        raise UserError(f"expected a scale of at least 0 for a difference map, got {scale}")
    change = 0.5 + perturbation / (2 * scale) if scale else np.full(perturbation.shape, 0.5)
    if perturbation.shape[-1] == _RGBA:
        # What changed is to be seen wherever it is.
        change = change[..., :-1]
    return to_pixels(change)


def png_bytes(pixels: UInt8[np.ndarray, "height width channels"]) -> bytes:
    """A picture as the content of a PNG file: RGB or RGBA, or of other channels the first in grey."""
    file = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[-1] in _COLOURS else pixels[..., 0]).save(file, format="PNG")
    return file.getvalue()


def shrunken(png: bytes, side: int) -> bytes:
    """A PNG file's picture, made smaller if it is wider or higher than so many pixels; else the file as it is."""
    with Image.open(io.BytesIO(png)) as picture:
        if max(picture.size) <= side:
            return png
        width, height = (math.ceil(size * side / max(picture.size)) for size in picture.size)
        file = io.BytesIO()
        picture.resize((width, height), Image.Resampling.LANCZOS).save(file, format="PNG")
    return file.getvalue()


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture file, of which only the head is read.

    Raises:
        OSError: it cannot be read, or is no picture.
    """
    with Image.open(path) as picture:
        return picture.size


def write_png(path: Path, pixels: UInt8[np.ndarray, "height width channels"]) -> None:
    """Write a picture to `path`, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(png_bytes(pixels))
