"""The choice between the sources of images: CIFAR-10 from wherever it is, and a person's own in several forms."""

import os
from pathlib import Path

import numpy as np

from advx_jax.cache import at_home, without_home
from advx_jax.data.binary_batches import read_binary
from advx_jax.data.cifar100 import is_cifar100_folder, read_cifar100
from advx_jax.data.decoding import Wanted
from advx_jax.data.fetch import fetched_folder
from advx_jax.data.folder import is_cifar10_folder, read_folder
from advx_jax.data.image_folder import read_image_folder
from advx_jax.data.image_set import CIFAR10_CLASSES, ImageSet, Labels, Pixels, Split, with_classes_of
from advx_jax.data.npz import SUFFIX, read_npz
from advx_jax.data.own_objects import load_own_object
from advx_jax.data.published import is_published
from advx_jax.data.resizing import resized
from advx_jax.data.sample import load_sample
from advx_jax.errors import UserError
from advx_jax.importing import is_import_name

HOW_TO_FETCH = "`python -m advx_jax.data.cifar10` fetches the full set"
PATH_VARIABLE = "CIFAR10_PATH"
_TFDS = "tfds"
# Of so many images, one is to test with.
_TESTED_OF, _DIVISION_SEED = 5, 0
_KNOWN = (
    "sample, tfds, tfds:NAME, a folder of class folders or with CIFAR-10 or -100, an .npz file, or package.module:name"
)


def load_images(
    spec: str | None, split: Split = "test", image_shape: tuple[int, int] | tuple[int, int, int] | None = None
) -> ImageSet:
    """Load one split of a set of labelled images, in their original order.

    Args:
        spec: `sample`, the CIFAR-10 test images that ship with the package; `tfds`, CIFAR-10 through TFDS; `tfds:NAME`,
            another data set that TFDS has prepared; a folder with CIFAR-10 (`cifar-10-batches-py` or `-bin`), with
            CIFAR-100 (`cifar-100-python` or `-binary`), or of class folders, with those of splits above them or not; an
            `.npz` file of `images` and `labels` (and `class_names`; `x_test` and `y_test`); `package.module:name`,
            images that own code gives. None or empty is the first CIFAR-10 that is there: `$CIFAR10_PATH`, the fetched
            set in the user's cache, the sample.
        split: which images; all, of a source that has no splits.
        image_shape: (height, width) or (height, width, channels) that the images are brought to: cropped in the middle
            to these proportions, and resized. As they are if None.

    Returns:
        The images; `source` says in words where they are from. Files in class folders and those of TFDS, and what is
        resized, are read and decoded only when they are asked for.

    Raises:
        UserError: the source is not there, is damaged, or has no such split; or its images have several sizes and there
            is no `image_shape`.
    """
    wanted = Wanted.of(image_shape)
    return resized(_load(spec, split, wanted), wanted)


def load_splits(
    spec: str | None, image_shape: tuple[int, int] | tuple[int, int, int] | None = None
) -> tuple[ImageSet, ImageSet]:
    """Load images to train with and images to test with, in memory and with the same classes.

    Of a source that does not tell them apart, every fifth image is drawn for testing, always the same ones.

    Args:
        spec: see `load_images`.
        image_shape: see `load_images`; those to test with are brought to the shape of the others.

    Raises:
        UserError: see `load_images`; or there are fewer than two images.
    """
    train = load_images(spec, "train", image_shape)
    if train.is_whole:
        train, test = _divided(train)
    else:
        test = load_images(spec, "test", train.images.shape[1:])
    if train.class_names_given:
        test = with_classes_of(test, len(train.class_names), train.class_names)
    else:
        n_classes = max(len(train.class_names), len(test.class_names))
        train, test = (with_classes_of(part, n_classes, None) for part in (train, test))
    return train.part(slice(None)), test.part(slice(None))


def _divided(data: ImageSet) -> tuple[ImageSet, ImageSet]:
    n_test = max(1, len(data) // _TESTED_OF)
    if len(data) < 2:
        raise UserError(f"expected images to train with and to test with in {data.source}, got {len(data)}")
    drawn = np.random.default_rng(_DIVISION_SEED).permutation(len(data))
    test, train = np.sort(drawn[:n_test]), np.sort(drawn[n_test:])
    return data.part(train, f"{data.source}, all but the others"), data.part(
        test, f"{data.source}, {n_test} of {len(data)} drawn for testing"
    )


def _load(spec: str | None, split: Split, wanted: Wanted) -> ImageSet:
    if not spec:
        return _found(split)
    if spec == "sample":
        return _sample(split)
    if spec == _TFDS:
        # TFDS takes a while to import.
        from advx_jax.data.tfds_builder import load_tfds

        images, labels, folder = load_tfds(split)
        return _cifar10(images, labels, f"TFDS in {without_home(folder)}", split)
    path = at_home(spec)
    if not path.exists():
        kind, _, name = spec.partition(":")
        if kind == _TFDS and name:
            from advx_jax.data.tfds_named import load_tfds_named

            return load_tfds_named(name, split, wanted)
        if is_import_name(spec):
            return load_own_object(spec, split)
        raise UserError(
            f"expected {_KNOWN} as the data, got {spec!r}, which is not there; for CIFAR-10, {HOW_TO_FETCH}"
        )
    if path.suffix.lower() == SUFFIX and path.is_file():
        return read_npz(path, split)
    if not path.is_dir():
        raise UserError(f"expected {_KNOWN} as the data, got the file {spec!r}")
    if is_cifar10_folder(path):
        return _cifar10_folder(path, split)
    if is_cifar100_folder(path):
        return read_cifar100(path, split)
    return read_image_folder(path, split, wanted)


def _found(split: Split) -> ImageSet:
    named = os.environ.get(PATH_VARIABLE)
    if named:
        try:
            return _cifar10_folder(at_home(named), split, f" (${PATH_VARIABLE})")
        except UserError as error:
            raise UserError(f"${PATH_VARIABLE}: {error}") from error
    if fetched_folder().exists():
        return _fetched(split)
    return _sample(split)


def _fetched(split: Split) -> ImageSet:
    folder = fetched_folder()
    try:
        images, labels = read_binary(folder, split)
    except UserError as error:
        raise UserError(f"{error}; {HOW_TO_FETCH} again") from error
    source = f"the fetched set in {without_home(folder)}"
    found = ImageSet(images, labels, CIFAR10_CLASSES, source, has_published_order=True)
    if not is_published(found, split):
        raise UserError(f"expected the published CIFAR-10 in {folder}, got a damaged one; {HOW_TO_FETCH} again")
    return found


def _sample(split: Split) -> ImageSet:
    if split != "test":
        raise UserError(f"the shipped sample of CIFAR-10 has test images only, no {split} images; {HOW_TO_FETCH}")
    return load_sample()


def _cifar10_folder(path: Path, split: Split, remark: str = "") -> ImageSet:
    images, labels, folder = read_folder(path, split)
    return _cifar10(images, labels, f"the folder {without_home(folder)}{remark}", split)


def _cifar10(images: Pixels, labels: Labels, source: str, split: Split) -> ImageSet:
    """Say so where it is a set of somebody's own: its results are not comparable with the published ones."""
    found = ImageSet(images, labels, CIFAR10_CLASSES, source, has_published_order=True)
    if is_published(found, split):
        return found
    source = f"{source}, {len(found)} images that are not the published {split} set"
    return ImageSet(images, labels, CIFAR10_CLASSES, source, has_published_order=True)
