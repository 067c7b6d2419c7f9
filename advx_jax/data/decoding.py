"""An image file of any size and colour mode, made into pixels of the size and channels that are wanted."""

import concurrent.futures
import contextlib
import importlib
import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, features

from advx_jax.errors import UserError

CHANNELS = {1: "grey", 3: "RGB", 4: "RGBA"}
"""How many channels images may have, and what they are called."""

# No more than these: Pillow would hand some others (EPS) to programs outside.
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
_AVIF_BRANDS, _HEIF_BRANDS = (
    {b"avif", b"avis"},
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"},
)
_UPRIGHT, _TURNED, _ON_THEIR_SIDES = 1, range(2, 9), range(5, 9)
_WHITE_IS_ZERO = 0
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_MODE_NAMES = {"1": "black and white", "L": "grey", "P": "palette"}
_GREY_MODES = ("1", "L", "LA", "La", "I", "F")
# Pillow reads 16 bits of grey into 32 here, and scales them to the full 16 where the file has fewer.
_SIXTEEN_BITS_IN_32 = ("PNG", "PPM")
_MOST_THREADS = 8


class Wanted(NamedTuple):
    """What images are to become; None where each is to stay as it is.

    Attributes:
        size: height and width.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
    """

    size: tuple[int, int] | None = None
    channels: int | None = None

    @classmethod
    def of(cls, shape: tuple[int, ...] | None) -> "Wanted":
        """A shape (height, width) or (height, width, channels), or None.

        Raises:
            UserError: it is no such shape.
        """
        if shape is None:
            return cls()
        is_shape = isinstance(shape, Sequence) and len(shape) in (2, 3) and all(map(_is_length, shape))
        if not is_shape:
            raise UserError(f"expected (height, width) or (height, width, channels) as image shape, got {shape!r}")
        return cls((shape[0], shape[1]), shape[2] if len(shape) > 2 else None)


def _is_length(size: object) -> bool:
    return isinstance(size, int | np.integer) and not isinstance(size, bool) and bool(size > 0)


class Decoded(NamedTuple):
    """An image, and what was done to it.

    Attributes:
        pixels: 0 to 255.
        treatment: in words; empty if nothing was done.
    """

    pixels: UInt8[np.ndarray, "height width channels"]
    treatment: str


def decode_file(path: Path, wanted: Wanted) -> Decoded:
    """Read an image file: upright as its EXIF data say, centre-cropped to the wanted proportions and resized.

    Raises:
        UserError: it is no image that can be read; the message does not name it.
    """
    with _quiet(), _refusals(), _opened(path, _formats(path)) as image:
        return _fitted(image, wanted)


def decode_files(paths: Sequence[Path], wanted: Wanted) -> UInt8[np.ndarray, "n height width channels"]:
    """Read image files as `decode_file` does, several at once.

    Args:
        paths: of the files.
        wanted: with a size and channels, or the images have them all alike.

    Raises:
        UserError: one is no image that can be read; it is named.
    """

    def pixels(path: Path) -> np.ndarray:
        try:
            with _refusals(), _opened(path, _formats(path)) as image:
                return _fitted(image, wanted).pixels
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    return np.stack(side_by_side(pixels, paths))


def decode_encoded(encoded: Sequence[bytes], wanted: Wanted) -> UInt8[np.ndarray, "n height width channels"]:
    """Read the contents of image files, as `decode_files` does.

    Raises:
        UserError: one is no image that can be read.
    """

    def pixels(content: bytes) -> np.ndarray:
        with _refusals(), _opened(io.BytesIO(content), _FORMATS) as image:
            return _fitted(image, wanted).pixels

    return np.stack(side_by_side(pixels, encoded))


def read_shapes(paths: Sequence[Path]) -> list[tuple[int, int, int]]:
    """Height, width and channels (1 for grey, or else 3) of image files as they are, from their heads alone.

    Raises:
        UserError: one is no image that can be read; it is named.
    """

    def shape(path: Path) -> tuple[int, int, int]:
        try:
            with _refusals(), _opened(path, _formats(path)) as image:
                width, height = image.size
                # Of TIFFs Pillow tells the size that they have upright.
                if image.format != "TIFF" and _orientation(image) in _ON_THEIR_SIDES:
                    width, height = height, width
                return height, width, _own_channels(image)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    return side_by_side(shape, paths)


def side_by_side(read: Callable[[Any], Any], sources: Sequence[Any]) -> list[Any]:
    """What is read of each source, by several threads: decoders and digests let others work meanwhile."""
    with _quiet(), concurrent.futures.ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        return list(pool.map(read, sources))


def fit_pixels(
    pixels: UInt8[np.ndarray, "height width channels"], wanted: Wanted
) -> UInt8[np.ndarray, "new_height new_width new_channels"]:
    """Make an image in memory what is wanted, as `decode_file` does with one in a file."""
    array = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    return _fitted(Image.fromarray(array), wanted).pixels


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Pillow's remarks about odd metadata are no news to the person; a decompression bomb is an error.

    Once around all threads: what warnings are to do is the whole process's.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Say in one line why an image cannot be read."""
    try:
        yield
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(f"expected an image of at most {Image.MAX_IMAGE_PIXELS} pixels, got more") from error
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot be read: {_one_line(error.strerror or error)}") from error
    except Exception as error:  # On damaged files Pillow's decoders raise whatever comes.
        raise UserError(f"cannot be read: {_one_line(error) or type(error).__name__}") from error


def _opened(source: Path | io.BytesIO, formats: tuple[str, ...]) -> Image.Image:
    try:
        return Image.open(source, formats=formats)
    except Image.UnidentifiedImageError as error:
        raise UserError(f"expected an image ({', '.join(formats)}), got something else") from error


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


def _fitted(image: Image.Image, wanted: Wanted) -> Decoded:
    """Bring an open image to what is wanted, and say how."""
    # Pillow turns TIFFs when it loads them, and forgets how.
    orientation = _orientation(image)
    image.load()
    steps = []
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        steps.append(f"the first of {frames} frames")
    if orientation in _TURNED:
        steps.append("turned upright as its EXIF data says")
    channels = wanted.channels or _own_channels(image)
    upright = ImageOps.exif_transpose(image)
    size = upright.size
    colour, step = _to_channels(upright, _deep_grey(image), channels)
    if step:
        steps.append(step)
    height, width = wanted.size or (size[1], size[0])
    cropped = _centre_crop(colour, width, height)
    resized = cropped
    if cropped.size != (width, height):
        resized = cropped.resize((width, height), Image.Resampling.LANCZOS)
    geometry = []
    if cropped.size != size:
        geometry.append(f"centre-cropped to {_times(cropped.size)}")
    if resized is not cropped:
        geometry.append(f"resized to {_times(resized.size)}")
    if geometry:
        steps.append(" and ".join(geometry))
    pixels = np.array(resized).reshape(height, width, channels)
    return Decoded(pixels, ", ".join([_times(size), *steps]) if steps else "")


def _orientation(image: Image.Image) -> int:
    found = image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
    return found if isinstance(found, int) else _UPRIGHT


def _own_channels(image: Image.Image) -> int:
    return 1 if image.mode in _GREY_MODES or image.mode.startswith("I;16") else 3


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


def _to_channels(image: Image.Image, deep_grey: tuple[int, int] | None, channels: int) -> tuple[Image.Image, str]:
    """Convert to 8-bit grey, RGB or RGBA; in the first two, transparent parts lie over white."""
    if channels not in CHANNELS:
        known = ", ".join(f"{count} ({name})" for count, name in CHANNELS.items())
        raise UserError(f"expected to make images of {known} channels, got {channels}")
    mode, name = _MODES[channels], CHANNELS[channels]
    if deep_grey is not None:
        # Pillow's own conversion cuts off what is above 255.
        darkest, brightest = deep_grey
        grey = np.round((np.asarray(image, np.float64) - darkest) * (255 / (brightest - darkest)))
        bits = max(deep_grey).bit_length()
        kind = "" if channels == 1 else f" {name}"
        return Image.fromarray(grey.astype(np.uint8)).convert(mode), f"{bits}-bit grey turned into{kind or ' 8-bit'}"
    if image.mode in ("I", "F"):
        raise UserError("expected 8 or 16 bits a channel, got 32")
    if image.has_transparency_data and channels != 4:
        above = image.convert("RGBA")
        white = Image.new("RGBA", above.size, "white")
        return Image.alpha_composite(white, above).convert(mode), "transparent parts laid over white"
    if image.mode == mode:
        return image, ""
    return image.convert(mode), f"{_MODE_NAMES.get(image.mode, image.mode)} turned into {name}"


def _centre_crop(image: Image.Image, width: int, height: int) -> Image.Image:
    """The largest part in the middle with these proportions."""
    own_width, own_height = image.size
    # Of a square, the shorter side.
    new_width = max(1, min(own_width, own_height * width // height))
    new_height = max(1, min(own_height, own_width * height // width))
    if (new_width, new_height) == (own_width, own_height):
        return image
    left, top = (own_width - new_width) // 2, (own_height - new_height) // 2
    return image.crop((left, top, left + new_width, top + new_height))
