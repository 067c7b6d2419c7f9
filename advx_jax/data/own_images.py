"""A person's own image files, made into 32x32 colour images."""

import importlib
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, features

from advx_jax.data.image_set import CIFAR10_CLASSES, CIFAR10_SIDE
from advx_jax.data.own_files import FoundFiles, LeftOut, OwnFile, find_files
from advx_jax.data.own_labels import read_label_table
from advx_jax.errors import UserError
from advx_jax.messages import listed

# No more than these: Pillow would hand some others (EPS) to programs outside.
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
_AVIF_BRANDS, _HEIF_BRANDS = (
    {b"avif", b"avis"},
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"},
)
_SIZE = (CIFAR10_SIDE, CIFAR10_SIDE)
_UPRIGHT = 1
_WHITE_IS_ZERO = 0
_MODE_NAMES = {"1": "black and white", "L": "grey", "P": "palette"}
# Pillow reads 16 bits of grey into 32 here, and scales them to the full 16 where the file has fewer.
_SIXTEEN_BITS_IN_32 = ("PNG", "PPM")


class OwnImage(NamedTuple):
    """An image file as the networks see it.

    Attributes:
        path: of the file.
        pixels: its colours, 0 to 255.
        treatment: a sentence on what was done to it; empty if nothing was.
        label: index of its class, if somebody says which it is.
    """

    path: Path
    pixels: UInt8[np.ndarray, "32 32 3"]
    treatment: str
    label: int | None = None


class OwnImages(NamedTuple):
    """What came of the files that a person named.

    Attributes:
        images: those that could be read, in their order; at least one.
        left_out: what could not be used, and why.
        notes: sentences on what lies in the folders and was not taken.
    """

    images: list[OwnImage]
    left_out: list[LeftOut]
    notes: list[str]


def load_own_images(
    names: Sequence[str],
    labels: Path | None = None,
    class_names: Sequence[str] = CIFAR10_CLASSES,
    strict: bool = False,
) -> OwnImages:
    """Load image files of any size and colour mode, centre-cropped to a square and resized to 32x32.

    Args:
        names: files, patterns, folders and folders of class folders, see `find_files`. May be empty if there are
            `labels`: then those files are taken that these name.
        labels: a table with the classes of all images, see `read_label_table`; names of folders mean nothing then.
        class_names: of all classes.
        strict: whether a file that cannot be used is an error.

    Raises:
        UserError: no file is an image that can be read, or `strict` and one is not; or labels are missing or wrong.
        OSError: a folder cannot be read.
    """
    found = find_files(names, class_names) if labels is None else _find_labelled(names, labels, class_names)
    images, left_out = [], list(found.left_out)
    for file in found.files:
        try:
            images.append(_load(file))
        except UserError as error:
            left_out.append(LeftOut(str(file.path), str(error)))
    if left_out and (strict or not images):
        _refuse(left_out, len(images))
    return OwnImages(images, left_out, found.notes)


def _find_labelled(names: Sequence[str], source: Path, class_names: Sequence[str]) -> FoundFiles:
    table = read_label_table(source, class_names)
    if not names:
        files = list(dict.fromkeys(table.paths()))
        return FoundFiles([OwnFile(*pair) for pair in zip(files, table.labels(files), strict=True)], [], [])
    found = find_files(names, None)
    labels = table.labels([file.path for file in found.files])
    return found._replace(files=[file._replace(label=label) for file, label in zip(found.files, labels, strict=True)])


def _refuse(left_out: Sequence[LeftOut], n_good: int) -> None:
    reasons = listed([f"{name}: {reason}" for name, reason in left_out])
    if n_good:
        raise UserError(f"expected nothing but images that can be read (strict), got {len(left_out)} other: {reasons}")
    raise UserError(f"expected image files, got none that can be read: {reasons}")


def _load(file: OwnFile) -> OwnImage:
    path = file.path
    try:
        formats = _formats(path)
        # Pillow's remarks about odd metadata are no news to the person; a decompression bomb is an error.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=formats) as image:
                pixels, steps = _to_network_size(image)
    except Image.UnidentifiedImageError as error:
        raise UserError(f"expected an image ({', '.join(formats)}), got something else") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(f"expected an image of at most {Image.MAX_IMAGE_PIXELS} pixels, got more") from error
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot be read: {_one_line(error.strerror or error)}") from error
    except Exception as error:  # On damaged files Pillow's decoders raise whatever comes.
        raise UserError(f"cannot be read: {_one_line(error) or type(error).__name__}") from error
    return OwnImage(path, pixels, f"{path.name}: {steps}" if steps else "", file.label)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _formats(path: Path) -> tuple[str, ...]:
    """Formats to try on a file.

    Raises:
        UserError: it is no file with anything in it, or of a format that only an optional package reads.
        OSError: it is not there, or must not be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        # Opening a pipe would wait for its other end.
        raise UserError("expected a file, got a folder or a device")
    if status.st_size == 0:
        raise UserError("expected an image, got an empty file")
    brands = _brands(path)
    if brands & _AVIF_BRANDS:
        if not ("avif" in features.modules and features.check_module("avif")):
            raise UserError("AVIF needs Pillow 11.3 or newer (pip install -U pillow)")
        return (*_FORMATS, "AVIF")
    if brands & _HEIF_BRANDS:
        try:
            importlib.import_module("pillow_heif").register_heif_opener()
        except ImportError as error:
            raise UserError("HEIC needs the package pillow-heif (pip install pillow-heif)") from error
        return (*_FORMATS, "HEIF")
    return _FORMATS


def _brands(path: Path) -> set[bytes]:
    """What an ISO media file says that it is: main brand and those that it is compatible with."""
    with path.open("rb") as file:
        start = file.read(256)
    if start[4:8] != b"ftyp":
        return set()
    box = start[8 : int.from_bytes(start[:4])]
    # The second four bytes are a version.
    return {box[place : place + 4] for place in range(0, len(box), 4) if place != 4}


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
    colour, step = _to_rgb(upright, _deep_grey(image))
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


def _deep_grey(image: Image.Image) -> tuple[int, int] | None:
    """What black and white are in a grey image of more than 8 bits; None for all others."""
    if image.mode == "I" and image.format in _SIXTEEN_BITS_IN_32:
        return 0, 2**16 - 1
    if not image.mode.startswith("I;16"):
        return None
    # Pillow reads 12 bits into 16 without scaling them, and does not turn the numbers round where 0 is white.
    tags = getattr(image, "tag_v2", {})
    largest = 2 ** tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0] - 1
    return (largest, 0) if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO else (0, largest)


def _to_rgb(image: Image.Image, deep_grey: tuple[int, int] | None) -> tuple[Image.Image, str]:
    """Convert to 8-bit RGB, transparent parts over white."""
    if deep_grey is not None:
        # Pillow's own conversion cuts off what is above 255.
        darkest, brightest = deep_grey
        grey = np.round((np.asarray(image, np.float64) - darkest) * (255 / (brightest - darkest)))
        bits = max(deep_grey).bit_length()
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB"), f"{bits}-bit grey turned into RGB"
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
