"""Which files a person means by names, patterns, folders, and folders of class folders."""

import glob
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from advx_jax.data.own_labels import class_index
from advx_jax.errors import UserError

_PIXMAPS, _HEIFS = ("pbm", "pgm", "ppm", "pnm"), ("avif", "heic", "heif", "hif")
_USUAL = ("png", "apng", "jpg", "jpeg", "jpe", "jfif", "gif", "bmp", "dib", "tif", "tiff", "webp")
IMAGE_SUFFIXES = frozenset(f".{name}" for name in (*_USUAL, *_PIXMAPS, *_HEIFS))
"""What files in a folder are images by their names; a file that is named itself may be called anything."""
# What begins so is the system's or a program's (.DS_Store, ._photo.jpg, __MACOSX).
_NOT_A_PERSONS = (".", "__")


class OwnFile(NamedTuple):
    """A file that may be an image.

    Attributes:
        path: of the file.
        label: index of its class, if somebody says which it is.
    """

    path: Path
    label: int | None = None


class LeftOut(NamedTuple):
    """Something that was named but cannot be used.

    Attributes:
        name: a path or a pattern.
        reason: what is wrong, in a few words.
    """

    name: str
    reason: str


class FoundFiles(NamedTuple):
    """What names, patterns and folders stand for.

    Attributes:
        files: each once, in the order of the names and naturally within each.
        left_out: names without a file, and what is no file.
        notes: sentences on what lies in the folders and was not taken.
    """

    files: list[OwnFile]
    left_out: list[LeftOut]
    notes: list[str]


def find_files(names: Sequence[str], class_names: Sequence[str] | None) -> FoundFiles:
    """Find the files that a person means.

    Args:
        names: each a file, a pattern (`photos/*.jpg`, `photos/**/*.png`), a folder, or several of these with commas
            between them. Of a folder, what is an image by its name is taken; a folder without images that holds
            folders is one of class folders.
        class_names: what class folders may be called; None if their names mean nothing.

    Raises:
        UserError: a class folder has a name that is no class.
        OSError: a folder cannot be read.
    """
    found = FoundFiles([], [], [])
    for name in names:
        for part in _parts(name):
            _find(part, class_names, found)
    return found._replace(files=_distinct(found.files))


def natural_order(name: str) -> tuple[list[tuple[str, int]], str]:
    """Key to sort names by: image-2 before image-10, and always the same way."""
    pieces = re.findall(r"(\D*)(\d*)", name.casefold())
    return [(text, int(digits or -1)) for text, digits in pieces], name


def _parts(name: str) -> list[str]:
    """Take a list apart, but no name that has commas itself."""
    expanded = os.path.expanduser(name)  # noqa: PTH111 (pathlib's fails where there is no such person)
    if "," not in name or os.path.lexists(expanded) or glob.glob(expanded):  # noqa: PTH207
        return [expanded]
    return [os.path.expanduser(part.strip()) for part in name.split(",") if part.strip()]  # noqa: PTH111


def _find(name: str, class_names: Sequence[str] | None, found: FoundFiles) -> None:
    path = Path(name)
    if path.is_dir():
        _find_in_folder(path, class_names, found)
    elif os.path.lexists(path):
        # A file's own name before patterns: it may contain brackets, which a pattern gives a meaning.
        found.files.append(OwnFile(path))
    elif glob.has_magic(name):
        matches = [Path(match) for match in glob.glob(name, recursive=True)]  # noqa: PTH207 (pathlib's has no absolute patterns)
        files = [match for match in matches if not match.is_dir()]
        folders = [match for match in matches if match.is_dir() and looks_like_an_image(match)]
        if not files and not folders:
            reason = (
                "only folders match this pattern; name a folder itself" if matches else "no file matches this pattern"
            )
            found.left_out.append(LeftOut(name, reason))
        found.files.extend(OwnFile(path) for path in sorted(files, key=_path_order))
        found.left_out.extend(LeftOut(str(path), "it is a folder") for path in sorted(folders, key=_path_order))
    else:
        found.left_out.append(LeftOut(name, "there is no such file"))


def _find_in_folder(folder: Path, class_names: Sequence[str] | None, found: FoundFiles) -> None:
    entries = persons_entries(folder)
    images = [path for path in entries if looks_like_an_image(path)]
    folders = [path for path in entries if path not in images and path.is_dir()]
    if images or not folders:
        _take(folder, entries, None, found)
        return
    labels: list[int | None] = [None] * len(folders)
    if class_names is not None:
        try:
            labels = [class_index(inner.name, class_names) for inner in folders]
        except UserError as error:
            raise UserError(
                f"{folder} holds folders and no images: {error}; for images without labels, --images='{folder}/**/*'"
            ) from error
    for inner, label in zip(folders, labels, strict=True):
        _take(inner, persons_entries(inner), label, found)


def is_a_persons(name: str) -> bool:
    """Whether a file or folder of this name is a person's own, and no system's or program's."""
    return not name.startswith(_NOT_A_PERSONS)


def persons_entries(folder: Path) -> list[Path]:
    """What lies in a folder, in natural order, without what the system or a program put there."""
    paths = [path for path in folder.iterdir() if is_a_persons(path.name)]
    return sorted(paths, key=_path_order)


def _take(folder: Path, entries: Sequence[Path], label: int | None, found: FoundFiles) -> None:
    """Take the images that lie in a folder, and say what else does."""
    images = [path for path in entries if looks_like_an_image(path)]
    found.files.extend(OwnFile(path, label) for path in images if not path.is_dir())
    found.left_out.extend(LeftOut(str(path), "it is a folder") for path in images if path.is_dir())
    others = len(entries) - len(images)
    rest = f"{others} {'entry' if others == 1 else 'entries'} without an image's name"
    if not images:
        found.left_out.append(LeftOut(str(folder), f"no images in this folder{f', {rest}' if others else ''}"))
    elif others:
        found.notes.append(f"{folder}: not taken: {rest}")


def _path_order(path: Path) -> tuple[list[tuple[str, int]], str]:
    return natural_order(str(path))


def looks_like_an_image(path: Path) -> bool:
    """By its name."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def _distinct(files: Iterable[OwnFile]) -> list[OwnFile]:
    """Each file once, where it is first named; with its label where one of its names has one."""
    by_path: dict[str, OwnFile] = {}
    for file in files:
        key = os.path.abspath(file.path)  # noqa: PTH100 (pathlib's does not remove `..`)
        first = by_path.setdefault(key, file)
        if first.label is None and file.label is not None:
            by_path[key] = first._replace(label=file.label)
    return list(by_path.values())
