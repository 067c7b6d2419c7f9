"""The layout `cifar-10-batches-py`: pickles that Python 2 wrote, read without running anything in them."""

from pathlib import Path
from typing import Any

import numpy as np

from advx_jax.data.binary_batches import check_labels, from_planes
from advx_jax.data.image_set import CIFAR10_SIDE, Labels, Pixels, Split
from advx_jax.data.plain_pickle import PickledBytes, PickleRefusedError, read_plain_pickle
from advx_jax.errors import UserError

PICKLED_FOLDER = "cifar-10-batches-py"
PICKLED_FILES: dict[Split, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}
_PIXEL_BYTES = 3 * CIFAR10_SIDE**2


def read_pickled(folder: Path, split: Split) -> tuple[Pixels, Labels]:
    """Read one split from a folder of pickled batches, of any number of images.

    Raises:
        UserError: a file is missing, or is no pickle of a batch; it is named.
    """
    batches = [_read_batch(folder / name) for name in PICKLED_FILES[split]]
    return np.concatenate([images for images, _ in batches]), np.concatenate([labels for _, labels in batches])


def _read_batch(path: Path) -> tuple[Pixels, Labels]:
    batch = read_pickle(path, "CIFAR-10 batch")
    planes, labels = pickled_arrays(batch, "labels", path)
    check_labels(labels, str(path))
    return from_planes(planes), np.array(labels, np.int64)


def read_pickle(path: Path, what: str) -> Any:
    """Read a pickle of plain data.

    Args:
        path: of the file.
        what: it should be, for messages.

    Raises:
        UserError: it cannot be read, or wants more than plain data.
    """
    try:
        return read_plain_pickle(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read the {what} {path}: {error.strerror}") from error
    except PickleRefusedError as error:
        raise UserError(f"expected a pickled {what} at {path}, but {error}") from error


def pickled_arrays(batch: Any, labels_key: str, path: Path) -> tuple[np.ndarray, list[int]]:
    """The planes and the labels of a pickled batch.

    Args:
        batch: as `read_pickle` gives it.
        labels_key: name of the labels.
        path: of the file, for messages.

    Raises:
        UserError: there are none, or not equally many.
    """
    planes, labels = entry(batch, "data"), entry(batch, labels_key)
    if not isinstance(planes, PickledBytes) or planes.values is None or planes.values.shape[1:] != (_PIXEL_BYTES,):
        raise UserError(f"expected `data` of {path} to be an array of bytes of shape (n, {_PIXEL_BYTES})")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise UserError(f"expected `{labels_key}` of {path} to be a list of whole numbers")
    if len(labels) != len(planes.values) or not labels:
        raise UserError(f"expected a label for each image of {path}, got {len(labels)} for {len(planes.values)}")
    return planes.values, labels


def entry(batch: Any, key: str) -> Any:
    """Look up a key that Python 2 wrote as bytes and Python 3 may have rewritten as text."""
    if not isinstance(batch, dict):
        return None
    return batch.get(key.encode(), batch.get(key))
