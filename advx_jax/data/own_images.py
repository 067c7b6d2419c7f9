"""A person's own image files, made into 32x32 colour images."""

import glob
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps

from advx_jax.data.image_set import CIFAR10_SIDE
from advx_jax.errors import UserError

# No more than these: Pillow would hand some others (EPS) to programs outside.
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
_SIZE = (CIFAR10_SIDE, CIFAR10_SIDE)
_UPRIGHT = 1
_MODE_NAMES = {"1": "black and white", "L": "grey", "P": "palette"}


class OwnImage(NamedTuple):
    """An image file as the networks see it.

    Attributes:
        path: of the file.
        pixels: its colours, 0 to 255.
        treatment: a sentence on what was done to it; empty if nothing was.
    """

    path: Path
    pixels: UInt8[np.ndarray, "32 32 3"]
    treatment: str


def load_own_images(pattern: str) -> list[OwnImage]:
    """Load image files of any size and colour mode, centre-cropped to a square and resized to 32x32.

    Args:
        pattern: a file name or a glob pattern (`photos/*.jpg`, `photos/**/*.png`).

    Returns:
        The images, sorted by path.

    Raises:
        UserError: nothing matches, or a file is no image, damaged, or absurdly large; it is named.
    """
    expanded = str(Path(pattern).expanduser())
    # A file's own name first: it may contain brackets, which a pattern gives a meaning.
    names = [expanded] if Path(expanded).is_file() else sorted(glob.glob(expanded, recursive=True))  # noqa: PTH207 (pathlib's has no absolute patterns)
    paths = [Path(name) for name in names if Path(name).is_file()]
    if not paths:
        raise UserError(f"expected image files for the pattern {pattern!r}, got no match")
    return [_load(path) for path in paths]


def _load(path: Path) -> OwnImage:
    try:
        # Pillow's remarks about odd metadata are no news to the person; a decompression bomb is an error.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                pixels, steps = _to_network_size(image)
    except Image.UnidentifiedImageError as error:
        raise UserError(f"expected an image ({', '.join(_FORMATS)}) at {path}, got something else") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(f"expected an image of at most {Image.MAX_IMAGE_PIXELS} pixels at {path}, got more") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # On damaged files Pillow's decoders raise whatever comes.
        reason = " ".join(str(error).split())
        raise UserError(f"cannot read the image {path}: {reason or type(error).__name__}") from error
    return OwnImage(path, pixels, f"{path.name}: {steps}" if steps else "")


def _to_network_size(image: Image.Image) -> tuple[UInt8[np.ndarray, "32 32 3"], str]:
    """Bring an open image to 32x32 RGB, and say how."""
    image.load()
    steps = []
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        steps.append(f"the first of {frames} frames")
    if image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT) != _UPRIGHT:
        steps.append("turned upright as its EXIF data says")
    upright = ImageOps.exif_transpose(image)
    size = upright.size
    colour, step = _to_rgb(upright)
    if step:
        steps.append(step)
    square = _centre_square(colour)
    resized = square if square.size == _SIZE else square.resize(_SIZE, Image.Resampling.LANCZOS)
    geometry = []
    if square.size != size:
        geometry.append(f"centre-cropped to {_times(square.size)}")
    if resized is not square:
        geometry.append(f"resized to {_times(_SIZE)}")
    if geometry:
        steps.append(" and ".join(geometry))
    return np.array(resized), ", ".join([_times(size), *steps]) if steps else ""


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _to_rgb(image: Image.Image) -> tuple[Image.Image, str]:
    """Convert to 8-bit RGB, transparent parts over white."""
    if image.mode.startswith("I;16"):
        # Pillow's own conversion cuts off what is above 255.
        grey = np.asarray(image, np.float32) / 257
        return Image.fromarray(np.round(grey).astype(np.uint8)).convert("RGB"), "16-bit grey turned into RGB"
    if image.mode in ("I", "F"):
        raise UserError("expected 8 or 16 bits a channel, got 32")
    if image.has_transparency_data:
        above = image.convert("RGBA")
        white = Image.new("RGBA", above.size, "white")
        return Image.alpha_composite(white, above).convert("RGB"), "transparent parts laid over white"
    if image.mode == "RGB":
        return image, ""
    return image.convert("RGB"), f"{_MODE_NAMES.get(image.mode, image.mode)} turned into RGB"


def _centre_square(image: Image.Image) -> Image.Image:
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image if width == height else image.crop((left, top, left + side, top + side))
