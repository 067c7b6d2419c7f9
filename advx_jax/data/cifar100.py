"""CIFAR-100 with its 100 fine classes, from a folder in either of its two usual layouts."""

from pathlib import Path

import numpy as np

from advx_jax.cache import without_home
from advx_jax.data.binary_batches import check_labels, from_planes
from advx_jax.data.image_set import CIFAR10_SIDE, ImageSet, Labels, Pixels, Split, numbered_classes
from advx_jax.data.pickled_batches import entry, pickled_arrays, read_pickle
from advx_jax.errors import UserError

PICKLED_FOLDER, BINARY_FOLDER = "cifar-100-python", "cifar-100-binary"
N_CLASSES = 100

_NAMES_KEY = "fine_label_names"
_PICKLED_NAMES, _BINARY_NAMES = "meta", f"{_NAMES_KEY}.txt"
# The coarse label comes first.
_LABEL_BYTES = 2
_RECORD_BYTES = _LABEL_BYTES + 3 * CIFAR10_SIDE**2


def is_cifar100_folder(path: Path) -> bool:
    """Whether it holds a split of CIFAR-100, here or in a folder called as the archives' are."""
    return any(_folder(path, split) is not None for split in ("train", "test"))


def read_cifar100(path: Path, split: Split) -> ImageSet:
    """Read one split.

    Args:
        path: `cifar-100-python`, `cifar-100-binary`, or the folder that holds one of them.
        split: which images.

    Raises:
        UserError: the split is not there, or is damaged.
    """
    folder = _folder(path, split)
    if folder is None:
        raise UserError(f"expected the {split} images of CIFAR-100 in {path}, got none")
    images, labels = (
        _read_binary(folder, split) if (folder / f"{split}.bin").is_file() else _read_pickled(folder, split)
    )
    names = _class_names(folder)
    source = f"CIFAR-100 in the folder {without_home(folder)}"
    return ImageSet(images, labels, names or numbered_classes(N_CLASSES), source, class_names_given=bool(names))


def _folder(path: Path, split: str) -> Path | None:
    for folder in (path, path / BINARY_FOLDER, path / PICKLED_FOLDER):
        # Folders of class folders may be called train and test, too.
        if (folder / f"{split}.bin").is_file() or (folder / split).is_file():
            return folder
    return None


def _read_binary(folder: Path, split: Split) -> tuple[Pixels, Labels]:
    path = folder / f"{split}.bin"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not data or len(data) % _RECORD_BYTES:
        raise UserError(f"expected records of {_RECORD_BYTES} bytes in {path}, got {len(data)} bytes")
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD_BYTES)
    labels = records[:, 1].astype(np.int64)
    check_labels(np.unique(labels).tolist(), str(path), N_CLASSES)
    return from_planes(records[:, _LABEL_BYTES:]), labels


def _read_pickled(folder: Path, split: Split) -> tuple[Pixels, Labels]:
    path = folder / split
    planes, labels = pickled_arrays(read_pickle(path, "split of CIFAR-100"), "fine_labels", path)
    check_labels(labels, str(path), N_CLASSES)
    return from_planes(planes), np.array(labels, np.int64)


def _class_names(folder: Path) -> tuple[str, ...] | None:
    """What the classes are called; None if nothing says it.

    Raises:
        UserError: what says it is damaged.
    """
    if (path := folder / _BINARY_NAMES).is_file():
        names = path.read_text(encoding="utf-8", errors="replace").split()
    elif (path := folder / _PICKLED_NAMES).is_file():
        found = entry(read_pickle(path, "list of CIFAR-100's classes"), _NAMES_KEY)
        texts = found if isinstance(found, list) else []
        names = [text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text) for text in texts]
    else:
        return None
    if len(set(names)) != N_CLASSES:
        raise UserError(f"expected the names of {N_CLASSES} classes in {path}, got {len(set(names))}")
    return tuple(names)
