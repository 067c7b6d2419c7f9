"""What files of ours hold beside the tensors of a network, where no tensor tells it (docs/networks.md)."""

import json
from collections.abc import Mapping
from typing import Any

from advx_jax.networks.architecture import Architecture
from advx_jax.networks.classifier import Classifier, Provenance
from advx_jax.networks.files import architecture_fields, read_architecture, read_class_names, read_provenance

ARCHITECTURE, CLASS_NAMES, PSI = "architecture", "class_names", "psi"
"""Keys of the architecture, as JSON; of the names of the classes; and of ψ, see `Provenance`."""

# What a family's file tells of how the network was trained, where there is something to tell.
_TRAINING = ("options", "psi_integrator", PSI)


def architecture_mark(architecture: Architecture) -> dict[str, Any]:
    """The architecture, to be put beside the tensors."""
    return {ARCHITECTURE: json.dumps(architecture_fields(architecture))}


def read_architecture_mark(content: Mapping[Any, Any]) -> Architecture:
    """Undo `architecture_mark`.

    Raises:
        UserError, KeyError, TypeError, ValueError, OverflowError, RecursionError: there is none, or it is damaged.
    """
    text = content[ARCHITECTURE]
    # The text of nested lists that repeat each other is longer than memory.
    fields = json.loads(text) if isinstance(text, str) else None
    if not isinstance(fields, dict):
        raise TypeError("no fields by name")
    return read_architecture(fields)


def class_names_mark(classifier: Classifier) -> dict[str, Any]:
    """What the classes are called, to be put beside the tensors; None where nobody says it.

    Raises:
        UserError: there are not as many names as classes.
    """
    names = classifier.class_names
    return {CLASS_NAMES: None if names is None else list(read_class_names(list(names), classifier.n_classes) or ())}


def training_marks(provenance: Provenance) -> dict[str, Any]:
    """How the network was trained, to be put beside the tensors: nothing where nobody tells it."""
    told = {"options": dict(provenance.options), "psi_integrator": provenance.psi_integrator, PSI: provenance.psi}
    # What is written must be readable again.
    read_provenance(dict(told))
    return {name: value for name, value in told.items() if value is not None and value != {}}


def read_training_marks(content: Mapping[Any, Any]) -> Provenance:
    """Undo `training_marks`.

    Raises:
        UserError: a field is of another kind.
    """
    return read_provenance({name: content[name] for name in _TRAINING if name in content})
