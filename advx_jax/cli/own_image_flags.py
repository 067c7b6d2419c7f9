"""Flags for a person's own images in place of a data set, and what they mean."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from advx_jax.analysis.soundness import fitted
from advx_jax.cli.inference_flags import data_was_given, wanted_shape
from advx_jax.data.image_set import numbered_classes
from advx_jax.data.own_images import OwnImages, load_own_images
from advx_jax.errors import UserError
from advx_jax.messages import one_line
from advx_jax.networks.class_names import class_names_of
from advx_jax.networks.registry import NamedModel

_IMAGES = flags.DEFINE_multi_string(
    "images",
    None,
    "Your own images instead: a file, a pattern ('photos/*.jpg'), a folder, or several with commas between them. A "
    "folder without images that holds folders called like classes (cat, dog, …) says what each image is. Files that "
    "cannot be read are left out and named at the end.",
)
_LABELS = flags.DEFINE_string(
    "labels",
    None,
    "CSV file with the columns file and label (a class by name or number) that says what own images are; without "
    "--images, all its files are taken.",
)
_MOST_LINES = 20


def check(arguments: Sequence[str], instead: Sequence[Any]) -> None:
    """Refuse what contradicts own images.

    Args:
        arguments: what stands on the command line beside flags.
        instead: flags that choose images of a data set.

    Raises:
        UserError: they are given too; or a flag is empty, or an unquoted pattern became many arguments.
    """
    for own in (_IMAGES, _LABELS):
        if not own.present:
            continue
        if not all([own.value] if own is _LABELS else own.value):
            raise UserError(f"expected a name after --{own.name}=, got nothing")
        other = [flag.name for flag in instead if flag.present] + (["data"] if data_was_given() else [])
        if other:
            raise UserError(f"expected either --{own.name} or --{other[0]}, got both")
    if arguments and _IMAGES.present:
        raise UserError(
            f"expected one value for --images, got {arguments[0]!r} too: put a pattern in quotes (--images='*.jpg') "
            "or name the folder"
        )


def load(network: NamedModel, strict: bool) -> OwnImages | None:
    """The images of --images and --labels; None if neither is given. Says what was done to them.

    Args:
        network: says what its classes are called, and what images it takes.
        strict: whether a file that cannot be used is an error.

    Raises:
        UserError: none can be used, or `strict` and one cannot, or labels are wrong.
    """
    if not (_IMAGES.present or _LABELS.present):
        return None
    own = load_own_images(
        _IMAGES.value or [],
        _class_names(network),
        wanted_shape(network),
        Path(_LABELS.value) if _LABELS.value else None,
        strict,
    )
    for line in _shortened([*own.notes, *(image.treatment for image in own.images if image.treatment)]):
        print(line)
    return own


def _class_names(network: NamedModel) -> tuple[str, ...] | None:
    """What class folders may be called; None where the network tells neither names nor number of its classes."""
    names, shape = class_names_of(network.classifier), wanted_shape(network)
    if names is not None or shape is None or len(shape) < 3:
        return names
    return numbered_classes(fitted(network, shape).classifier.n_classes)


def left_out(own: OwnImages | None) -> list[str]:
    """A line for each file that could not be used, for the end."""
    if own is None:
        return []
    return _shortened([f"left out: {name}: {reason}" for name, reason in own.left_out])


def _shortened(lines: list[str]) -> list[str]:
    more = len(lines) - _MOST_LINES
    # Names of files may hold anything.
    return [*map(one_line, lines[:_MOST_LINES]), *([f"… and {more} more"] if more > 0 else [])]
