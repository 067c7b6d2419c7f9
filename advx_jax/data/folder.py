"""CIFAR-10 from a folder, in either of its two usual layouts."""

from collections.abc import Callable
from pathlib import Path

from advx_jax.data.binary_batches import BINARY_FILES, BINARY_FOLDER, read_binary
from advx_jax.data.image_set import Labels, Pixels, Split
from advx_jax.data.pickled_batches import PICKLED_FILES, PICKLED_FOLDER, read_pickled
from advx_jax.errors import UserError

_Reader = Callable[[Path, Split], tuple[Pixels, Labels]]

# The binary one first: it is read faster.
_LAYOUTS: tuple[tuple[str, dict[Split, tuple[str, ...]], _Reader], ...] = (
    (BINARY_FOLDER, BINARY_FILES, read_binary),
    (PICKLED_FOLDER, PICKLED_FILES, read_pickled),
)


def is_cifar10_folder(path: Path) -> bool:
    """Whether there is a batch of any split, here or in a folder called as the archives' are."""
    names = ((folder, name) for folder, files, _ in _LAYOUTS for split in files.values() for name in split)
    return any((path / name).is_file() or (path / folder / name).is_file() for folder, name in names)


def read_folder(path: Path, split: Split) -> tuple[Pixels, Labels, Path]:
    """Read one split from `cifar-10-batches-bin` or `cifar-10-batches-py`.

    Args:
        path: one of these folders, or the one that holds them.
        split: which images.

    Returns:
        Images, labels, and the folder that they were found in.

    Raises:
        UserError: `path` is no such folder, or a batch in it is missing or damaged.
    """
    for name, files, read in _LAYOUTS:
        for folder in (path, path / name):
            if any((folder / file).is_file() for file in files[split]):
                return *read(folder, split), folder
    found = "a folder without them" if path.is_dir() else "a file" if path.exists() else "nothing there"
    raise UserError(
        f"expected a folder with the {split} batches of {BINARY_FOLDER} or {PICKLED_FOLDER} at {path}, got {found}"
    )
