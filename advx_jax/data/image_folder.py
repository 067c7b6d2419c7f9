"""A folder of class folders: one for each class, called like it, with the images in it."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from advx_jax.cache import without_home
from advx_jax.data.decoding import Wanted, decode_files, read_shapes, side_by_side
from advx_jax.data.image_set import ImageSet, Split
from advx_jax.data.lazy_pixels import LazyPixels
from advx_jax.data.own_files import is_a_persons, looks_like_an_image, natural_order, persons_entries
from advx_jax.errors import UserError
from advx_jax.messages import listed, shown, size_in_words

# What folders with the images of a split are called, the first that is there first.
_SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
}


class ClassFolders(NamedTuple):
    """Image files and their classes.

    Attributes:
        folder: in which the class folders lie.
        class_names: of the class folders, in natural order; those of all splits.
        paths: of the files, class by class.
        labels: of the files.
        left_out: how many files lie beside the class folders or have no image's name.
        beside: names of folders beside those of splits.
        is_whole: whether there are no splits.
    """

    folder: Path
    class_names: tuple[str, ...]
    paths: list[Path]
    labels: list[int]
    left_out: int
    beside: list[str]
    is_whole: bool


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of splits in a folder, by their names in lower case; none where its folders are those of classes."""
    known = {name for names in _SPLIT_FOLDERS.values() for name in names}
    folders = _folders(root)
    found = {path.name.casefold(): path for path in folders if path.name.casefold() in known}
    if len(found) == len(folders):
        return found
    # Among others (`unlabeled`, `annotations`) too, where each split has one, with folders in it; classes are not
    # called so.
    of_each = [_folder_of(found, split) for split in _SPLIT_FOLDERS]
    return found if all(path is not None and _folders(path) for path in of_each) else {}


def _folder_of(of_splits: Mapping[str, Path], split: Split) -> Path | None:
    return next((of_splits[name] for name in _SPLIT_FOLDERS[split] if name in of_splits), None)


def read_image_folder(root: Path, split: Split, wanted: Wanted) -> ImageSet:
    """Images in class folders, or in those of the split, if there are such: `train`, and `test` or `val`.

    They are read when they are asked for.

    Args:
        root: where the class folders or those of the splits lie. Without those, all images are of any split.
        split: which images.
        wanted: what they are to become.

    Raises:
        UserError: there are no class folders with images in them, or not of the split; there are images to test with of
            classes that are not trained; the images have several sizes, and nobody says to which they should be
            brought; a folder cannot be read, or a head, where sizes have to be.
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
    if found.beside:
        source += f", without {listed([shown(name) for name in found.beside])} beside it"
    pixels = LazyPixels((len(paths), *shape), read, lambda: _identity(found, shape))
    labels = np.array(found.labels, np.int64)
    return ImageSet(pixels, labels, found.class_names, source, is_whole=found.is_whole)


def _find(root: Path, split: Split) -> ClassFolders:
    of_splits = _split_folders(root)
    folder = _folder_of(of_splits, split) if of_splits else root
    if folder is None:
        expected = " or ".join(_SPLIT_FOLDERS[split])
        raise UserError(f"expected a folder {expected} in {root}, got {', '.join(of_splits)}")
    class_names = _class_names(of_splits) if of_splits else _names_of_folders(root)
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
    beside = [path.name for path in _folders(root) if path not in of_splits.values()] if of_splits else []
    return ClassFolders(folder, tuple(class_names), paths, labels, left_out, beside, not of_splits)


def _class_names(of_splits: Mapping[str, Path]) -> list[str]:
    """Those of the training images; a class that has no images in another split is one all the same.

    Raises:
        UserError: another split has images in other folders: often they are of no class at all.
    """
    trained = _folder_of(of_splits, "train")
    known = _names_of_folders(trained) if trained else []
    if not known:
        return _names_of_folders(*of_splits.values())
    for folder in of_splits.values():
        if others := [shown(path.name) for path in _folders(folder) if path.name not in known and _files_in(path)[0]]:
            raise UserError(f"expected the classes of {trained} in {folder}, got others: {listed(others)}")
    return known


def _names_of_folders(*parents: Path) -> list[str]:
    return sorted({path.name for parent in parents for path in _folders(parent)}, key=natural_order)


def _folders(folder: Path) -> list[Path]:
    return [path for path in persons_entries(folder) if path.is_dir()]


def _files_in(folder: Path) -> tuple[list[Path], int]:
    """Images in a class folder and in folders in it, and how many other files there are."""
    images, others = [], 0
    for inner, folders, names in os.walk(folder, onerror=_refuse):
        # What is taken out here is not walked through.
        folders[:] = filter(is_a_persons, folders)
        paths = [Path(inner, name) for name in filter(is_a_persons, names)]
        images += [path for path in paths if looks_like_an_image(path)]
        others += sum(not looks_like_an_image(path) for path in paths)
    return sorted(images, key=lambda path: natural_order(str(path))), others


def _refuse(error: OSError) -> NoReturn:
    """A folder that cannot be read must not be as if it were empty."""
    raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from error


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
    """Equal for folders of the same files only: by their names and all that is in them."""
    digest = hashlib.sha256(repr((shape, found.class_names)).encode())
    for path, content in zip(found.paths, side_by_side(_content_sha256, found.paths), strict=True):
        digest.update(repr((os.fsencode(path.relative_to(found.folder)), content)).encode())
    return digest.digest()


def _content_sha256(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
