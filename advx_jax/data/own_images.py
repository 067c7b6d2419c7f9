"""A person's own image files, one by one, made into images that a network takes."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from advx_jax.data.decoding import Wanted, decode_file
from advx_jax.data.own_files import FoundFiles, LeftOut, OwnFile, find_files
from advx_jax.data.own_labels import read_label_table
from advx_jax.errors import UserError
from advx_jax.messages import listed, size_in_words


class OwnImage(NamedTuple):
    """An image file as the networks see it.

    Attributes:
        path: of the file.
        pixels: 0 to 255.
        treatment: a sentence on what was done to it; empty if nothing was.
        label: index of its class, if somebody says which it is.
    """

    path: Path
    pixels: UInt8[np.ndarray, "height width channels"]
    treatment: str
    label: int | None = None


class OwnImages(NamedTuple):
    """What came of the files that a person named.

    Attributes:
        images: those that could be read, in their order; at least one.
        left_out: what could not be used, and why.
        notes: sentences on what lies in the folders and was not taken.
    """

    images: list[OwnImage]
    left_out: list[LeftOut]
    notes: list[str]


def load_own_images(
    names: Sequence[str],
    class_names: Sequence[str] | None,
    image_shape: tuple[int, int] | tuple[int, int, int] | None,
    labels: Path | None = None,
    strict: bool = False,
) -> OwnImages:
    """Load image files of any size and colour mode, centre-cropped to a network's proportions and resized.

    Args:
        names: files, patterns, folders and folders of class folders, see `find_files`. May be empty if there are
            `labels`: then those files are taken that these name.
        class_names: of all classes; None where nobody knows how many there are, so that names of folders mean nothing.
        image_shape: (height, width) or (height, width, channels) that the network takes; None for any.
        labels: a table with the classes of all images, see `read_label_table`; names of folders mean nothing then.
        strict: whether a file that cannot be used is an error.

    Raises:
        UserError: no file is an image that can be read, or `strict` and one is not; or labels are missing or wrong.
        OSError: a folder cannot be read.
    """
    found = find_files(names, class_names) if labels is None else _find_labelled(names, labels, class_names)
    images, left_out = [], list(found.left_out)
    for file in found.files:
        try:
            images.append(_load(file, Wanted.of(image_shape)))
        except UserError as error:
            left_out.append(LeftOut(str(file.path), str(error)))
    if left_out and (strict or not images):
        _refuse(left_out, len(images))
    _check_alike(images)
    return OwnImages(images, left_out, found.notes)


def _check_alike(images: Sequence[OwnImage]) -> None:
    """Refuse images of several sizes where nobody says to which they should be brought."""
    shapes = {image.pixels.shape: image.path for image in images}
    if len(shapes) > 1:
        (one, its), (other, others) = list(shapes.items())[:2]
        raise UserError(
            f"expected --image_size=HEIGHTxWIDTH to bring images of several sizes to one, got none: {its} is "
            f"{size_in_words(one)}, {others} is {size_in_words(other)}"
        )


def _find_labelled(names: Sequence[str], source: Path, class_names: Sequence[str] | None) -> FoundFiles:
    if class_names is None:
        raise UserError(
            "expected a model that says what its classes are called (class_names) or what images it takes "
            f"(image_shape) beside the labels in {source}, got neither"
        )
    table = read_label_table(source, class_names)
    if not names:
        files = list(dict.fromkeys(table.paths()))
        return FoundFiles([OwnFile(*pair) for pair in zip(files, table.labels(files), strict=True)], [], [])
    found = find_files(names, None)
    labels = table.labels([file.path for file in found.files])
    return found._replace(files=[file._replace(label=label) for file, label in zip(found.files, labels, strict=True)])


def _refuse(left_out: Sequence[LeftOut], n_good: int) -> None:
    reasons = listed([f"{name}: {reason}" for name, reason in left_out])
    if n_good:
        raise UserError(f"expected nothing but images that can be read (strict), got {len(left_out)} other: {reasons}")
    raise UserError(f"expected image files, got none that can be read: {reasons}")


def _load(file: OwnFile, wanted: Wanted) -> OwnImage:
    decoded = decode_file(file.path, wanted)
    treatment = f"{file.path.name}: {decoded.treatment}" if decoded.treatment else ""
    return OwnImage(file.path, decoded.pixels, treatment, file.label)
