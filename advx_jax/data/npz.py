"""Images and labels in a NumPy archive (`.npz`); nothing in it is unpickled."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advx_jax.cache import without_home
from advx_jax.data.arrays import image_set_of
from advx_jax.data.image_set import ImageSet, Split
from advx_jax.errors import UserError
from advx_jax.messages import listed, shown

SUFFIX = ".npz"

# Names of images and labels, the split's own before those of a file without splits.
_OWN: dict[Split, tuple[tuple[str, str], ...]] = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}
_ALL = ("images", "labels")
_CLASS_NAMES = "class_names"


def read_npz(path: Path, split: Split) -> ImageSet:
    """Read the images of a split: `x_test`, `y_test` (`x_train`, `y_train`), or else `images`, `labels`.

    A file that has `x_test` and calls its training images `images` has them in the training split only.

    Raises:
        UserError: it cannot be read, has no such arrays, or they do not fit together.
    """
    source = f"the file {without_home(path)}"

    def read(archive: Any) -> tuple[Any, Any, Any, bool]:
        pair = _pair(archive.files, split, source)
        is_whole = not any(name in archive.files for names in _OWN.values() for name, _ in names)
        names = archive[_CLASS_NAMES] if _CLASS_NAMES in archive.files else None
        return archive[pair[0]], archive[pair[1]], names, is_whole

    images, labels, class_names, is_whole = _read(path, read)
    return dataclasses.replace(image_set_of(images, labels, class_names, source), is_whole=is_whole)


def _pair(names: Sequence[str], split: Split, source: str) -> tuple[str, str]:
    other: Split = "train" if split == "test" else "test"
    pairs = [pair for pair in _OWN[split] if pair[0] in names]
    if not pairs and _ALL[0] in names and not (split == "test" and any(pair[0] in names for pair in _OWN[other])):
        pairs = [_ALL]
    if pairs and pairs[0][1] in names:
        return pairs[0]
    wanted = pairs[0][1] if pairs else f"images and labels, or {' and '.join(_OWN[split][0])},"
    raise UserError(f"expected {wanted} in {source}, got {listed([shown(name) for name in names]) or 'nothing'}")


def _read(path: Path, work: Any) -> Any:
    try:
        # Opened here: what NumPy opens, it leaves open where the file is damaged.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise UserError(f"expected arrays by name in {path}, got a single one")
            return work(archive)
    except UserError:
        raise
    except Exception as error:  # On damaged files NumPy and zipfile raise whatever comes.
        reason = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
        if "Object arrays" in reason:
            reason = "it holds Python objects, which are never read; save names as np.array(names) of texts"
        elif "pickled data" in reason:
            reason = "it is no .npz file"
        raise UserError(f"cannot read the arrays in {path}: {reason}") from error
