"""The file format of networks: safetensors, with architecture and provenance in the metadata.

One file, readable with numpy alone, and nothing in it can be executed. Tensors are named by their
path in the Flax variables, for instance `params/stage1_block1/conv1/kernel`. A digest in the metadata
tells whether the numbers are still those that were written. Equal networks make equal files.
"""

import dataclasses
import json
import re
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from flax import traverse_util

from advx_jax.errors import UserError
from advx_jax.files import atomic_write
from advx_jax.messages import listed, shown
from advx_jax.networks.architecture import Architecture
from advx_jax.networks.classifier import Classifier, Provenance, Variables, Wrapper, expected_variables
from advx_jax.networks.digests import digest
from advx_jax.networks.families import FAMILIES, ResidualArchitecture
from advx_jax.networks.resnet import ResNetArchitecture
from advx_jax.networks.tensor_file import Header, described, read_header, read_tensors, tensor_bytes

FORMAT = "advx_jax network 1"
SUFFIX = ".safetensors"

_PARTS = ("format", "architecture", "provenance")
# Files of earlier versions have none.
_DIGEST = "sha256"
# With the provenance, where the network says it.
_CLASS_NAMES = "class_names"
# Fields of a wrapper with a number for each channel, which is all that earlier versions knew.
_OLDER_WRAPPER = 4
# A thousand times a published network; a larger file is refused before it is read.
_LARGEST_FILE = 4 * 2**30


def save_network(path: Path, classifier: Classifier, provenance: Provenance) -> None:
    """Write a network to `path`, whole or not at all.

    Raises:
        UserError: the variables are not the architecture's, or hold numbers that no network has.
    """
    check_variables(classifier.variables, classifier.architecture, f"cannot write {path}: the network")
    tensors = _flat(classifier.variables)
    metadata = {
        "format": FORMAT,
        "architecture": json.dumps(architecture_fields(classifier.architecture)),
        "provenance": json.dumps({**_provenance_fields(provenance), **_class_names_field(classifier)}),
    }
    content = tensor_bytes(tensors, metadata | {_DIGEST: digest(tensors, metadata)})
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def load_network(path: Path) -> tuple[Classifier, Provenance]:
    """Read a network that `save_network` wrote.

    What the file says of itself is checked before its numbers are read, and those before they are used.

    Raises:
        UserError: the file is missing, damaged, or no such network, its tensors are not the
            architecture's, or they hold numbers that no network has.
    """
    try:
        data = _read_bytes(path)
        header = read_header(data)
        if header.metadata.get("format") != FORMAT:
            found = shown(header.metadata.get("format"))
            raise UserError(f"expected a network file of format {FORMAT!r} at {path}, got {found}")
        architecture, provenance, class_names = _read_metadata(header)
        _check_shapes(header.tensors, architecture, "its content")
        tensors = read_tensors(data)
        about = {key: header.metadata[key] for key in _PARTS}
        if header.metadata.get(_DIGEST, digest(tensors, about)) != digest(tensors, about):
            raise UserError("it is damaged: its numbers are not those that were written; take another copy of it")
        check_numbers(tensors, "its content")
    except UserError as error:
        raise UserError(f"cannot read the network {path}: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read the network {path}: {error.strerror}") from error
    return Classifier(traverse_util.unflatten_dict(tensors, sep="/"), architecture, class_names), provenance


def check_variables(variables: Variables, architecture: Architecture, source: str) -> None:
    """Compare names, shapes and types of variables with those of an architecture, and look at their numbers.

    Args:
        variables: Flax collections of arrays.
        architecture: what they should fit.
        source: what to call their origin in the error.

    Raises:
        UserError: a tensor is missing, surplus, of another shape or type, or holds numbers that no
            network has; each is named.
    """
    flat = _flat(variables)
    found = {name: described(value.dtype.name, value.shape) for name, value in flat.items()}
    _check_shapes(found, architecture, source)
    check_numbers(flat, source)


def check_numbers(tensors: Mapping[str, np.ndarray], source: str) -> None:
    """Make sure that all numbers are finite, variances not negative, and standard deviations positive.

    Args:
        tensors: by the name of the Flax variable or of the PyTorch tensor.
        source: what to call their origin in the error.

    Raises:
        UserError: a tensor holds other numbers; each is named.
    """
    problems = []
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            problems.append(f"{shown(name)} holds infinite or NaN numbers")
        elif re.search(r"(^|[/.])(var|running_var)$", name) and (tensor < 0).any():
            problems.append(f"{shown(name)} holds negative variances")
        elif re.search(r"(^|/)std$", name) and not (tensor > 0).all():
            problems.append(f"{shown(name)} holds standard deviations that are not positive")
    if problems:
        raise UserError(f"{source} is no network: {listed(problems)}")


def _read_bytes(path: Path) -> bytes:
    # Looked at first, because a large file costs nothing to make but memory to read.
    size = path.stat().st_size
    if size > _LARGEST_FILE:
        raise UserError(f"expected a file of at most {_LARGEST_FILE} bytes, got {size}")
    return path.read_bytes()


def _read_metadata(header: Header) -> tuple[Architecture, Provenance, tuple[str, ...] | None]:
    metadata = header.metadata
    # Any other key may be a known one that was damaged, for instance that of the digest.
    if not set(_PARTS) <= metadata.keys() <= {*_PARTS, _DIGEST}:
        raise UserError(f"the metadata hold other keys than a network's: {listed([shown(key) for key in metadata])}")
    try:
        architecture = read_architecture(_json_object(metadata["architecture"]))
        about = _json_object(metadata["provenance"])
        class_names = read_class_names(about.pop(_CLASS_NAMES, None), architecture.n_classes)
        provenance = read_provenance(about)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"its metadata are damaged: {error}") from error
    # Building the shapes of an architecture takes time for each of its blocks.
    if architecture.n_blocks > len(header.tensors):
        raise UserError(
            f"its metadata tell of {architecture.n_blocks} blocks, but there are only {len(header.tensors)} tensors"
        )
    return architecture, provenance, class_names


def _class_names_field(classifier: Classifier) -> dict[str, Any]:
    """Nothing where nobody names the classes: equal networks make equal files, those of earlier releases too."""
    names = classifier.class_names
    return {} if names is None else {_CLASS_NAMES: read_class_names(list(names), classifier.n_classes)}


def read_class_names(value: Any, n_classes: int) -> tuple[str, ...] | None:
    """Names of classes as files have them: a list, or None.

    Raises:
        UserError: it is something else, or there are not as many as classes.
    """
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value) or len(value) != n_classes:
        raise UserError(f"expected the names of {n_classes} classes, got {shown(value)}")
    return tuple(value)


def _json_object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise UserError(f"expected the fields by name, got {shown(found)}")
    return found


def _check_names(fields: Mapping[str, Any], known: tuple[dataclasses.Field[Any], ...]) -> None:
    names = {field.name for field in known}
    surplus = [shown(key) for key in fields if key not in names]
    if surplus:
        raise UserError(f"expected the fields {', '.join(sorted(names))}, got {listed(surplus)}")


def architecture_fields(architecture: Architecture) -> dict[str, Any]:
    """An architecture as files have it: what JSON can hold, by name.

    The method's own family has no `family`, and no `image_shape` if that is CIFAR-10's, as in the files from when
    there was nothing else.

    Raises:
        UserError: it is of no family that files can hold.
    """
    if isinstance(architecture, ResNetArchitecture):
        fields = dataclasses.asdict(architecture)
        if architecture.image_shape == ResNetArchitecture.image_shape:
            del fields["image_shape"]
        return fields
    if isinstance(architecture, ResidualArchitecture):
        return {"family": architecture.family, **dataclasses.asdict(architecture)}
    raise UserError(f"expected a network of a family that files can hold, got {architecture.name}")


def read_architecture(fields: dict[str, Any]) -> Architecture:
    """Undo `architecture_fields`.

    Raises:
        UserError: the fields are not those of an architecture.
    """
    family: type[Architecture] = ResNetArchitecture
    if "family" in fields:
        name = fields.pop("family")
        if not isinstance(name, str) or name not in FAMILIES:
            raise UserError(f"expected one of the families {', '.join(FAMILIES)}, got {shown(name)}")
        family = FAMILIES[name]
    _check_names(fields, dataclasses.fields(family))  # type: ignore[arg-type]
    _check_fields(fields, {name: _check_of(hint) for name, hint in typing.get_type_hints(family).items()})
    # JSON has whole numbers where a person wrote them without a point.
    floats = {name for name, hint in typing.get_type_hints(family).items() if hint is float}
    fields = {name: float(value) if name in floats else value for name, value in fields.items()}
    return family(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})


def _check_of(hint: Any) -> Callable[[Any], bool]:
    """How values from JSON must be to become such a field."""
    if typing.get_origin(hint) is tuple:
        sizes = typing.get_args(hint)
        return lambda value: (
            isinstance(value, list) and all(map(_is_whole, value)) and (... in sizes or len(value) == len(sizes))
        )
    if typing.get_origin(hint) is Literal:
        return lambda value: isinstance(value, str) and value in typing.get_args(hint)
    return {int: _is_whole, float: _is_finite, bool: lambda value: isinstance(value, bool)}.get(hint, lambda _: False)


def _provenance_fields(provenance: Provenance) -> dict[str, Any]:
    """As files have them: what an earlier version did not know is left out where it says nothing."""
    fields = {**dataclasses.asdict(provenance), "options": dict(provenance.options)}
    wrapper, psi = fields.pop("wrapper"), fields.pop("psi")
    if wrapper is not None:
        fields["wrapper"] = list(wrapper if wrapper.shared else wrapper[:_OLDER_WRAPPER])
    return fields if psi is None else {**fields, "psi": psi}


def read_provenance(fields: dict[str, Any]) -> Provenance:
    """A provenance from its fields, as JSON has them; those left out are as where nobody tells them.

    Raises:
        UserError: a field is unknown, or of another kind.
    """
    _check_names(fields, dataclasses.fields(Provenance))
    options = fields.pop("options", {})
    if not isinstance(options, dict):
        raise UserError(f"expected options by name, got {shown(options)}")
    for name, value in options.items():
        if not (isinstance(name, str) and name.isidentifier() and isinstance(value, bool)):
            raise UserError(f"expected options that are true or false, got {shown(name)}: {shown(value)}")
    _check_fields(
        fields,
        {
            "name": lambda value: isinstance(value, str),
            "psi_integrator": lambda value: value is None or _is_finite(value),
            "source_sha256": lambda value: (
                value is None or (isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None)
            ),
            "batches_tracked": lambda value: _is_whole(value) and 0 <= value < 2**63,
            "wrapper": _is_wrapper,
            "psi": lambda value: value is None or (_is_finite(value) and value > 0),
        },
    )
    if "wrapper" in fields:
        fields["wrapper"] = Wrapper(*fields["wrapper"])
    return Provenance(**fields, options=tuple(sorted(options.items())))


def _is_wrapper(value: Any) -> bool:
    if not isinstance(value, list) or not _OLDER_WRAPPER <= len(value) <= len(Wrapper._fields):
        return False
    *names, n_axes, shared = (*value, False)[: len(Wrapper._fields)]
    fits = all(isinstance(name, str) for name in names) and Wrapper(*value).can_be_kept()
    # One number is there for all channels, whatever else is said.
    least = 0 if shared is True else 1
    return fits and isinstance(shared, bool) and _is_whole(n_axes) and n_axes in (least, 1, 3, 4)


def _check_fields(fields: Mapping[str, Any], checks: Mapping[str, Callable[[Any], bool]]) -> None:
    for name, value in fields.items():
        if not checks[name](value):
            raise UserError(f"expected another kind of {name}, got {shown(value)}")


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _check_shapes(found: Mapping[str, str], architecture: Architecture, source: str) -> None:
    flat: dict[str, Any] = traverse_util.flatten_dict(expected_variables(architecture), sep="/")
    # In files numbers are float32, with whatever precision JAX computes.
    expected = {name: described("float32", variable.shape) for name, variable in flat.items()}
    problems = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    problems += [f"{_named(name)} is surplus" for name in sorted(found.keys() - expected.keys())]
    problems += [
        f"{name}: expected {expected[name]}, got {found[name]}"
        for name in sorted(expected.keys() & found.keys())
        if expected[name] != found[name]
    ]
    if problems:
        raise UserError(f"{source} does not fit its architecture: {listed(problems)}")


def _named(name: str) -> str:
    return name if re.fullmatch(r"[\w/.-]{1,120}", name) else shown(name)


def _flat(variables: Variables) -> dict[str, np.ndarray]:
    flat = traverse_util.flatten_dict(variables, sep="/")
    return {name: np.asarray(value) for name, value in cast(dict[str, Any], flat).items()}
