"""A folder of class folders: one for each class, called like it, with the images in it."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from advx_jax.cache import without_home
from advx_jax.data.decoding import Wanted, decode_files, read_shapes
from advx_jax.data.image_set import ImageSet, Split
from advx_jax.data.lazy_pixels import LazyPixels
from advx_jax.data.own_files import is_a_persons, looks_like_an_image, natural_order, persons_entries
from advx_jax.errors import UserError
from advx_jax.messages import size_in_words

# What folders with the images of a split are called, the first that is there first.
_SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
}
# In compressed images whatever changes also changes what follows, up to the end.
_END_BYTES = 4096


class ClassFolders(NamedTuple):
    """Image files and their classes.

    Attributes:
        folder: in which the class folders lie.
        class_names: of the class folders, in natural order; those of all splits.
        paths: of the files, class by class.
        labels: of the files.
        left_out: how many files lie beside the class folders or have no image's name.
    """

    folder: Path
    class_names: tuple[str, ...]
    paths: list[Path]
    labels: list[int]
    left_out: int


def has_splits(root: Path) -> bool:
    """Whether the folders in a folder are those of splits, and not of classes."""
    known = {name for names in _SPLIT_FOLDERS.values() for name in names}
    folders = _folders(root)
    return bool(folders) and all(path.name.casefold() in known for path in folders)


def read_image_folder(root: Path, split: Split, wanted: Wanted) -> ImageSet:
    """Images in class folders, or in those of the split, if there are such: `train`, and `test` or `val`.

    They are read when they are asked for.

    Args:
        root: where the class folders or those of the splits lie. Without those, all images are of any split.
        split: which images.
        wanted: what they are to become.

    Raises:
        UserError: there are no class folders with images in them, or not of the split; the images have several sizes,
            and nobody says to which they should be brought; or a head cannot be read, where sizes have to be.
    """
    found = _find(root, split)
    shape = _common_shape(found.paths, wanted)
    paths, exactly = found.paths, Wanted(shape[:2], shape[2])

    def read(places: np.ndarray) -> np.ndarray:
        if not len(places):
            return np.zeros((0, *shape), np.uint8)
        return decode_files([paths[place] for place in places], exactly)

    source = f"the folder {without_home(found.folder)}, as {size_in_words(shape)}"
    if found.left_out:
        source += f", {found.left_out} files left out"
    pixels = LazyPixels((len(paths), *shape), read, lambda: _identity(found, shape))
    labels = np.array(found.labels, np.int64)
    return ImageSet(pixels, labels, found.class_names, source, is_whole=not has_splits(root))


def _find(root: Path, split: Split) -> ClassFolders:
    folder, others = root, [root]
    if has_splits(root):
        by_name = {path.name.casefold(): path for path in _folders(root)}
        names = [name for name in _SPLIT_FOLDERS[split] if name in by_name]
        if not names:
            raise UserError(
                f"expected a folder {' or '.join(_SPLIT_FOLDERS[split])} in {root}, got {', '.join(by_name)}"
            )
        folder, others = by_name[names[0]], list(by_name.values())
    # A class that has no images in one split is one all the same.
    class_names = sorted({path.name for other in others for path in _folders(other)}, key=natural_order)
    entries = persons_entries(folder)
    paths, labels, left_out = [], [], sum(not path.is_dir() for path in entries)
    for label, name in enumerate(class_names):
        if (folder / name).is_dir():
            images, rest = _files_in(folder / name)
            paths += images
            labels += [label] * len(images)
            left_out += rest
    if not paths:
        loose = any(looks_like_an_image(path) for path in entries)
        found = "images without classes" if loose else "no images in any" if class_names else "none"
        hint = f"; explain takes images without classes, too: --images={folder}" if loose else ""
        raise UserError(f"expected class folders (cat, dog, …) with images in {folder}, got {found}{hint}")
    return ClassFolders(folder, tuple(class_names), paths, labels, left_out)


def _folders(folder: Path) -> list[Path]:
    return [path for path in persons_entries(folder) if path.is_dir()]


def _files_in(folder: Path) -> tuple[list[Path], int]:
    """Images in a class folder and in folders in it, and how many other files there are."""
    images, others = [], 0
    for inner, folders, names in os.walk(folder):
        # What is taken out here is not walked through.
        folders[:] = filter(is_a_persons, folders)
        paths = [Path(inner, name) for name in filter(is_a_persons, names)]
        images += [path for path in paths if looks_like_an_image(path)]
        others += sum(not looks_like_an_image(path) for path in paths)
    return sorted(images, key=lambda path: natural_order(str(path))), others


def _common_shape(paths: Sequence[Path], wanted: Wanted) -> tuple[int, int, int]:
    if wanted.size and wanted.channels:
        return *wanted.size, wanted.channels
    shapes = read_shapes(paths)
    sizes = {shape[:2]: path for shape, path in zip(shapes, paths, strict=True)}
    if wanted.size is None and len(sizes) > 1:
        (one, its), (other, others) = list(sizes.items())[:2]
        raise UserError(
            f"expected --image_size=HEIGHTxWIDTH to bring images of {len(sizes)} sizes to one, got none: {its} is "
            f"{size_in_words(one)}, {others} is {size_in_words(other)}"
        )
    size = wanted.size or next(iter(sizes))
    return *size, wanted.channels or max(channels for *_, channels in shapes)


def _identity(found: ClassFolders, shape: tuple[int, int, int]) -> bytes:
    """Equal for folders of the same files only: names, sizes, and the end of each, which is read fast."""
    digest = hashlib.sha256(repr((shape, found.class_names)).encode())
    for path in found.paths:
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _END_BYTES))
                end = file.read()
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
        name = os.fsencode(path.relative_to(found.folder))
        digest.update(repr((name, size, hashlib.sha256(end).digest())).encode())
    return digest.digest()
