"""The file format of networks: safetensors, with architecture and provenance in the metadata.

One file, readable with numpy alone, and nothing in it can be executed. Tensors are named by their
path in the Flax variables, for instance `params/stage1_block1/conv1/kernel`.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from advx_jax.errors import UserError
from advx_jax.files import written_whole
from advx_jax.networks.classifier import Classifier, Provenance, Variables, expected_variables
from advx_jax.networks.resnet import Architecture

FORMAT = "advx_jax network 1"
SUFFIX = ".safetensors"


def save_network(path: Path, classifier: Classifier, provenance: Provenance) -> None:
    """Write a network to `path`, whole or not at all."""
    tensors = {
        name: np.ascontiguousarray(value)
        for name, value in traverse_util.flatten_dict(classifier.variables, sep="/").items()
    }
    metadata = {
        "format": FORMAT,
        "architecture": json.dumps(dataclasses.asdict(classifier.architecture)),
        "provenance": json.dumps({**dataclasses.asdict(provenance), "options": dict(provenance.options)}),
    }
    with written_whole(path) as temporary:
        safetensors.numpy.save_file(tensors, temporary, metadata)


def load_network(path: Path) -> tuple[Classifier, Provenance]:
    """Read a network that `save_network` wrote.

    Raises:
        UserError: the file is missing, is no such network, or its tensors are not the architecture's.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"cannot read the network {path}: {error}") from error
    if metadata.get("format") != FORMAT:
        raise UserError(f"expected a network file of format {FORMAT!r} at {path}, got {metadata.get('format')!r}")
    try:
        fields: dict[str, Any] = json.loads(metadata["architecture"])
        fields |= {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        architecture = Architecture(**fields)
        fields = json.loads(metadata["provenance"])
        provenance = Provenance(**{**fields, "options": tuple(sorted(fields["options"].items()))})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"cannot read the metadata of the network {path}: {error}") from error
    variables = traverse_util.unflatten_dict(tensors, sep="/")
    check_variables(variables, architecture, str(path))
    return Classifier(variables, architecture), provenance


def check_variables(variables: Variables, architecture: Architecture, source: str) -> None:
    """Compare names, shapes and types of variables with those that the architecture has.

    Args:
        variables: Flax collections of arrays.
        architecture: what they should fit.
        source: what to call their origin in the error.

    Raises:
        UserError: a tensor is missing, surplus, or of another shape or type; each is named.
    """
    expected = _flat_shapes(expected_variables(architecture))
    found = _flat_shapes(variables)
    problems = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    problems += [f"{name} is surplus" for name in sorted(found.keys() - expected.keys())]
    problems += [
        f"{name}: expected {expected[name]}, got {found[name]}"
        for name in sorted(expected.keys() & found.keys())
        if expected[name] != found[name]
    ]
    if problems:
        raise UserError(f"{source} does not fit its architecture: " + "; ".join(problems))


def _flat_shapes(variables: Variables) -> dict[str, str]:
    flat: dict[str, Any] = traverse_util.flatten_dict(variables, sep="/")
    return {name: f"{jax.numpy.dtype(v.dtype).name}{list(v.shape)}" for name, v in flat.items()}
