"""Networks of the known families in PyTorch's files, as state dicts of their own classes (docs/networks.md)."""

from collections import OrderedDict
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from advx_jax.errors import UserError
from advx_jax.messages import listed, shown
from advx_jax.networks.architecture import Architecture
from advx_jax.networks.classifier import Classifier, Provenance
from advx_jax.networks.files import check_numbers, read_class_names

from .containers import Contents
from .families import recognise
from .keys import check_tensors, to_flax, to_torch
from .marks import (
    CLASS_NAMES,
    architecture_mark,
    class_names_mark,
    read_architecture_mark,
    read_training_marks,
    training_marks,
)
from .normalisation import ASKED_FOR, Normalisation
from .options import shortest
from .state_dict import StateDict, read_state_dict

_FORMAT = "advx_jax state dict 1"
_MOST_BATCHES = 2**63 - 1


class Hints(NamedTuple):
    """What a person, or a table, tells of a file that does not tell it itself.

    Attributes:
        architecture: name of the architecture, which decides what tensors do not tell.
        normalisation: of the images; must not contradict the file.
        default_normalisation: of the images, where the file has none.
        state_dict: key of the state dict in the file.
        image_shape: height, width and channels of the images; None for those that the family is made for.
    """

    architecture: str | None = None
    normalisation: str | None = None
    default_normalisation: str | None = None
    state_dict: str | None = None
    image_shape: tuple[int, int, int] | None = None


def read_family(contents: Contents, hints: Hints) -> tuple[Classifier, Provenance, list[str]]:
    """The network in what a file holds, its provenance without a name, and what a person should know of it.

    Raises:
        UserError: it has no state dict of a known family, or does not tell what must be known.
    """
    found = read_state_dict(contents, hints.state_dict)
    own = _own_marks(contents.value)
    architecture = _architecture(found, hints, own)
    check_tensors(found.tensors, architecture)
    check_numbers(found.tensors, "the state dict")
    normalisation = _normalisation(found.normalisation or own.normalisation, hints)
    counters = [tensor.item() for name, tensor in found.tensors.items() if name.endswith(".num_batches_tracked")]
    if not all(0 <= counter <= _MOST_BATCHES for counter in counters):
        raise UserError("expected counts of batches in num_batches_tracked, got negative ones")
    provenance = replace(own.provenance, batches_tracked=max(counters, default=0), wrapper=found.wrapper)
    notes = []
    if found.others:
        others = listed([shown(key) for key in found.others])
        notes = [f"took the state dict under {shown(found.key)}; --state_dict chooses another: {others}"]
    variables = to_flax(found.tensors, architecture, normalisation)
    return Classifier(variables, architecture, own.class_names), provenance, notes


def family_content(classifier: Classifier, provenance: Provenance) -> dict[str, Any]:
    """What a file is to hold for a network whose variables fit its architecture.

    The state dict has the names of the class that the network had in the file that it comes from, so that it
    loads strictly into that; beside it stand architecture, normalisation, names of the classes and how it was
    trained, which no state dict tells.

    Raises:
        UserError: the provenance holds what such a file cannot, or there are not as many names as classes.
    """
    architecture = classifier.architecture
    tensors = to_torch(classifier.variables, architecture, provenance.batches_tracked)
    mean, std = (np.asarray(classifier.variables["constants"][half], np.float32) for half in ("mean", "std"))
    wrapper = provenance.wrapper
    if wrapper is not None:
        shape: tuple[int, ...] = {0: (), 1: (-1,), 3: (-1, 1, 1), 4: (1, -1, 1, 1)}[wrapper.n_axes]
        n_numbers = 1 if wrapper.shared else len(mean)
        outside = {name: half[:n_numbers].reshape(shape) for name, half in ((wrapper.mean, mean), (wrapper.std, std))}
        tensors = outside | {f"{wrapper.prefix}{name}": tensor for name, tensor in tensors.items()}
    return {
        "state_dict": OrderedDict(tensors),
        "normalisation": {"mean": list(shortest(mean)), "std": list(shortest(std))},
        **architecture_mark(architecture),
        **class_names_mark(classifier),
        **training_marks(provenance),
        "format": _FORMAT,
    }


class _OwnMarks(NamedTuple):
    """What `family_content` puts beside a state dict."""

    architecture: Architecture | None = None
    normalisation: Normalisation | None = None
    class_names: tuple[str, ...] | None = None
    provenance: Provenance = Provenance()


def _own_marks(value: object) -> _OwnMarks:
    if not isinstance(value, dict) or value.get("format") != _FORMAT:
        return _OwnMarks()
    try:
        architecture = read_architecture_mark(value)
        halves = value["normalisation"]
        normalisation = Normalisation(*(tuple(float(number) for number in halves[half]) for half in ("mean", "std")))
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"expected architecture and normalisation of {_FORMAT}, got something else") from error
    class_names = read_class_names(value.get(CLASS_NAMES), architecture.n_classes)
    return _OwnMarks(architecture, normalisation, class_names, read_training_marks(value))


def _architecture(found: StateDict, hints: Hints, own: _OwnMarks) -> Architecture:
    if own.architecture is None:
        return recognise(found.tensors, hints.architecture, hints.image_shape)
    if hints.architecture is not None and hints.architecture.lower() != own.architecture.name.lower():
        raise UserError(f"expected a network {hints.architecture}, got {own.architecture.name}")
    return own.architecture


def _normalisation(of_file: Normalisation | None, hints: Hints) -> Normalisation:
    if hints.normalisation is None:
        if of_file is not None:
            return of_file
        if hints.default_normalisation is None:
            raise UserError(f"nothing in the file tells how images are normalised: give {ASKED_FOR}")
        return Normalisation.parse(hints.default_normalisation)
    wanted = Normalisation.parse(hints.normalisation)
    if of_file is not None and not of_file.is_near(wanted):
        raise UserError(f"the file has a normalisation of its own, {of_file}: expected no other, got {wanted}")
    return of_file or wanted
