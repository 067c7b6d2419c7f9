"""Data sets that TensorFlow Datasets (TFDS) has prepared, by name, read without TensorFlow.

Importing this module takes a second: import it only when TFDS was asked for.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from advx_jax.cache import without_home
from advx_jax.data.decoding import Wanted, decode_encoded
from advx_jax.data.image_set import ImageSet, Split
from advx_jax.data.lazy_pixels import LazyPixels
from advx_jax.errors import UserError
from advx_jax.messages import shown, size_in_words

_SPLITS: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "validation")}
_IMAGE, _LABEL = "image", "label"


def load_tfds_named(name: str, split: Split, wanted: Wanted) -> ImageSet:
    """Images of a data set for classification that is prepared in the format array_record; in the order of its files.

    They are read when they are asked for.

    Args:
        name: as TFDS has it: `mnist`, `imagenet_v2/matched-frequency`, `oxford_flowers102:2.1.1`.
        split: which images; validation images stand in for test images where there are no others.
        wanted: what they are to become.

    Raises:
        UserError: there is no such data set, it is not prepared or not for this, or it is damaged; or its images have
            several sizes, and nobody says to which they should be brought.
    """
    builder = _builder(name)
    folder = Path(builder.data_dir)
    features = builder.info.features
    if not (hasattr(features, "keys") and {_IMAGE, _LABEL} <= set(features) and hasattr(features[_LABEL], "names")):
        raise UserError(f"expected a data set with an image and a class label in tfds:{name}, got another kind")
    part = next((part for part in _SPLITS[split] if part in builder.info.splits), None)
    if part is None:
        raise UserError(f"expected {split} images in tfds:{name}, got {', '.join(builder.info.splits) or 'none'}")
    try:
        records = builder.as_data_source(part, decoders={_IMAGE: tfds.decode.SkipDecoding()})
        labels = np.array([record[_LABEL] for record in records], np.int64)
    except Exception as error:  # On other formats and damaged records, TFDS and array_record raise whatever comes.
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"expected tfds:{name} at {folder} in the format array_record, which is read without TensorFlow, "
            f"got {reason or type(error).__name__}; {_how_to_prepare(name)}"
        ) from error
    shape = _shape(name, features[_IMAGE].shape, wanted)
    exactly = Wanted(shape[:2], shape[2])

    def read(places: np.ndarray) -> np.ndarray:
        if not len(places):
            return np.zeros((0, *shape), np.uint8)
        return decode_encoded([records[int(place)][_IMAGE] for place in places], exactly)

    def identity() -> bytes:
        sizes = [(path.name, path.stat().st_size) for path in sorted(folder.glob(f"*{part}*"))]
        return hashlib.sha256(repr((builder.info.full_name, part, sizes, shape)).encode()).digest()

    names = tuple(features[_LABEL].names)
    source = f"TFDS in {without_home(folder)}, its {part} images as {size_in_words(shape)}"
    return ImageSet(LazyPixels((len(labels), *shape), read, identity), labels, names, source)


def _builder(name: str) -> Any:
    try:
        builder = tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"))
    except Exception as error:  # Of unknown names TFDS tells all known ones, in hundreds of lines.
        reason = str(error).partition("\n")[0]
        raise UserError(f"expected a data set of TFDS in tfds:{name}, got {shown(name)}: {reason}") from error
    if not Path(builder.data_dir).exists():
        raise UserError(
            f"expected tfds:{name} to be prepared in {builder.data_dir}, got nothing; {_how_to_prepare(name)}"
        )
    return builder


def _how_to_prepare(name: str) -> str:
    call = f"tensorflow_datasets.builder({name!r}).download_and_prepare(file_format='array_record')"
    return f"{call} prepares it in Python (for many data sets only where TensorFlow is installed)"


def _shape(name: str, own: tuple[int | None, ...], wanted: Wanted) -> tuple[int, int, int]:
    height, width, channels = own
    size = wanted.size or (None if height is None or width is None else (height, width))
    if size is None:
        raise UserError(f"expected --image_size=HEIGHTxWIDTH to bring the images of tfds:{name} to one size, got none")
    return *size, wanted.channels or channels or 3
