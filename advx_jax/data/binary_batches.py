"""The layout `cifar-10-batches-bin`: records of one label byte and 3072 pixel bytes."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from advx_jax.data.image_set import CIFAR10_CLASSES, CIFAR10_SIDE, Labels, Pixels, Split
from advx_jax.errors import UserError

BINARY_FOLDER = "cifar-10-batches-bin"
BINARY_FILES: dict[Split, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
CLASS_NAMES_FILE = "batches.meta.txt"

_PIXEL_BYTES = 3 * CIFAR10_SIDE**2
_RECORD_BYTES = 1 + _PIXEL_BYTES


def read_binary(folder: Path, split: Split) -> tuple[Pixels, Labels]:
    """Read one split from a folder of binary batches, of any number of records.

    Raises:
        UserError: a file is missing or is no such batch; it is named.
    """
    batches = [_read_batch(folder / name) for name in BINARY_FILES[split]]
    return np.concatenate([images for images, _ in batches]), np.concatenate([labels for _, labels in batches])


def _read_batch(path: Path) -> tuple[Pixels, Labels]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the CIFAR-10 batch {path}: {error.strerror}") from error
    return parse_records(data, str(path))


def parse_records(data: bytes, name: str) -> tuple[Pixels, Labels]:
    """Take the records of a batch apart.

    Args:
        data: whole records: one label byte, then red, green and blue planes, row by row.
        name: what to call the batch in an error.

    Raises:
        UserError: there is no whole number of records, or a label is not below 10.
    """
    if not data or len(data) % _RECORD_BYTES:
        raise UserError(f"expected records of {_RECORD_BYTES} bytes in {name}, got {len(data)} bytes")
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD_BYTES)
    labels = records[:, 0].astype(np.int64)
    check_labels(np.unique(labels).tolist(), name)
    return from_planes(records[:, 1:]), labels


def from_planes(planes: np.ndarray) -> Pixels:
    """Turn rows of 3072 bytes (channel, row, column) into NHWC images."""
    channel_first = planes.reshape(-1, 3, CIFAR10_SIDE, CIFAR10_SIDE)
    return np.ascontiguousarray(channel_first.transpose(0, 2, 3, 1))


def check_labels(labels: Iterable[int], name: str, n_classes: int = len(CIFAR10_CLASSES)) -> None:
    """Refuse labels that are none of the classes.

    Raises:
        UserError: a label is not in 0…n_classes - 1.
    """
    for label in labels:
        if not 0 <= label < n_classes:
            raise UserError(f"expected labels from 0 to {n_classes - 1} in {name}, got {label}")


def write_binary(folder: Path, split: Split, images: Pixels, labels: Labels) -> None:
    """Write one split as binary batches, in equal parts, and the class names beside them.

    Args:
        folder: an existing folder.
        split: decides on the names of the files.
        images: as many as a multiple of the number of files.
        labels: of the images.
    """
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), _PIXEL_BYTES)
    records = np.concatenate([labels.astype(np.uint8)[:, None], planes], axis=1)
    names = BINARY_FILES[split]
    for name, part in zip(names, np.split(records, len(names)), strict=True):
        (folder / name).write_bytes(part.tobytes())
    (folder / CLASS_NAMES_FILE).write_text("\n".join(CIFAR10_CLASSES) + "\n", encoding="ascii")
