"""The choice between the sources of CIFAR-10."""

import os
from pathlib import Path

from advx_jax.cache import at_home
from advx_jax.data.binary_batches import read_binary
from advx_jax.data.fetch import fetched_folder
from advx_jax.data.folder import read_folder
from advx_jax.data.image_set import CIFAR10_CLASSES, ImageSet, Split
from advx_jax.data.published import is_published
from advx_jax.data.sample import load_sample
from advx_jax.errors import UserError

HOW_TO_FETCH = "`python -m advx_jax.data.cifar10` fetches the full set"
PATH_VARIABLE = "CIFAR10_PATH"


def load_cifar10(source: str | None, split: Split) -> ImageSet:
    """Load one split of CIFAR-10, its images in their original order.

    Args:
        source: `sample`, the test images that ship with the package; `tfds`; a folder holding
            `cifar-10-batches-py` or `cifar-10-batches-bin`; or None (or empty) for the first that is
            there: `$CIFAR10_PATH`, the fetched set in the user's cache, the sample.
        split: which images.

    Returns:
        The images; `source` says in words where they are from, and if they are not the published set.

    Raises:
        UserError: the source is not there, is damaged, or has no such split.
    """
    if not source:
        return _found(split)
    if source == "sample":
        return _sample(split)
    if source == "tfds":
        # TFDS takes a while to import.
        from advx_jax.data.tfds_builder import load_tfds

        images, labels, folder = load_tfds(split)
        return _described(ImageSet(images, labels, CIFAR10_CLASSES, f"TFDS in {_shown(folder)}"), split)
    path = at_home(source)
    if not path.exists():
        raise UserError(f"expected sample, tfds or a folder with CIFAR-10 as the data, got {source!r}; {HOW_TO_FETCH}")
    return _from_folder(path, split, "")


def _found(split: Split) -> ImageSet:
    named = os.environ.get(PATH_VARIABLE)
    if named:
        try:
            return _from_folder(at_home(named), split, f" (${PATH_VARIABLE})")
        except UserError as error:
            raise UserError(f"${PATH_VARIABLE}: {error}") from error
    if fetched_folder().exists():
        return _fetched(split)
    return _sample(split)


def _fetched(split: Split) -> ImageSet:
    folder = fetched_folder()
    try:
        images = ImageSet(*read_binary(folder, split), CIFAR10_CLASSES, f"the fetched set in {_shown(folder)}")
    except UserError as error:
        raise UserError(f"{error}; {HOW_TO_FETCH} again") from error
    if not is_published(images, split):
        raise UserError(f"expected the published CIFAR-10 in {folder}, got a damaged one; {HOW_TO_FETCH} again")
    return images


def _sample(split: Split) -> ImageSet:
    if split != "test":
        raise UserError(f"the shipped sample of CIFAR-10 has test images only, no {split} images; {HOW_TO_FETCH}")
    return load_sample()


def _from_folder(path: Path, split: Split, remark: str) -> ImageSet:
    images, labels, folder = read_folder(path, split)
    return _described(ImageSet(images, labels, CIFAR10_CLASSES, f"the folder {_shown(folder)}{remark}"), split)


def _shown(folder: Path) -> str:
    """A folder as results name it, which people pass on: not with where its owner's home is."""
    home = at_home("~")
    return f"~/{folder.relative_to(home)}" if folder.is_relative_to(home) else str(folder)


def _described(images: ImageSet, split: Split) -> ImageSet:
    """Say so where it is a set of somebody's own: its results are not comparable with the published ones."""
    if is_published(images, split):
        return images
    source = f"{images.source}, {len(images)} images that are not the published {split} set"
    return ImageSet(images.images, images.labels, images.class_names, source)
