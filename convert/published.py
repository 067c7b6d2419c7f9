"""The method's own networks in PyTorch's files: `model_params` and `training_options` (docs/method.md)."""

import math
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import numpy as np

from advx_jax.errors import UserError
from advx_jax.messages import shown
from advx_jax.networks.classifier import Classifier, Provenance
from advx_jax.networks.files import check_numbers, read_class_names
from advx_jax.networks.registry import manifest_psi
from advx_jax.networks.resnet import ResNetArchitecture

from .containers import Contents
from .keys import Kind, check_tensors, common_value, to_flax, to_torch
from .marks import (
    ARCHITECTURE,
    CLASS_NAMES,
    PSI,
    architecture_mark,
    class_names_mark,
    read_architecture_mark,
    read_training_marks,
)
from .options import TrainingOptions, read_options, shortest
from .state_dict import contents_shown, read_tensors, with_counters

PARTS = ("model_params", "training_options")
# Beside those, in files of ours only, and there where the parts do not tell it.
_MARKS = (ARCHITECTURE, CLASS_NAMES, PSI)


def is_published(value: object) -> bool:
    """Whether a file holds what the method's PyTorch code saves."""
    return isinstance(value, dict) and PARTS[0] in value


def read_published(contents: Contents) -> tuple[Classifier, Provenance]:
    """The network in what such a file holds, and its provenance without a name.

    Raises:
        UserError: the file holds something else, or its tensors are not those of the architecture that its
            options tell.
    """
    value = contents.value
    if not isinstance(value, dict) or not set(PARTS) <= value.keys() <= {*PARTS, *_MARKS}:
        raise UserError(f"expected a dict of {' and '.join(PARTS)}, got {contents_shown(value)}")
    specs, options = value["model_params"], value["training_options"]
    if not isinstance(specs, dict):
        raise UserError(f"expected a dict of tensors as model_params, got {shown(specs)}")
    tensors = with_counters(read_tensors(specs, contents))
    marked = _marked_architecture(value)
    options = read_options(options, len(tensors), (marked or ResNetArchitecture).image_shape)
    _check_activation(tensors, options.architecture)
    check_tensors(tensors, options.architecture)
    with np.errstate(over="ignore"):
        input_offset = np.array(options.input_offset, np.float32)
    if not np.array_equal(tensors["input_offset"], input_offset):
        raise UserError("expected the same input_offset in the tensors and in training_options, got two")

    arch = options.architecture
    bowl_width = common_value(tensors, arch, Kind.BOWL_WIDTH)
    if bowl_width is not None:
        if not 0 < bowl_width < math.inf:
            raise UserError(f"expected a positive bowl width, got {bowl_width}")
        arch = replace(arch, bowl_width=bowl_width)
    if marked is not None:
        if _told(marked) != _told(arch):
            raise UserError(f"expected the architecture that tensors and training_options tell, {arch}, got {marked}")
        arch = marked
    batches_tracked = common_value(tensors, arch, Kind.BATCHES_TRACKED)
    if not isinstance(batches_tracked, int) or batches_tracked < 0:
        raise UserError(f"expected a count of batches in num_batches_tracked, got {batches_tracked}")
    check_numbers({**tensors, "input_offset/std": tensors["input_offset"][1]}, "model_params")
    provenance = Provenance(
        options=tuple(sorted(options.flags.items())),
        psi_integrator=options.psi_integrator,
        batches_tracked=batches_tracked,
        psi=read_training_marks({PSI: value[PSI]}).psi if PSI in value else None,
    )
    class_names = read_class_names(value.get(CLASS_NAMES), arch.n_classes)
    return Classifier(to_flax(tensors, arch), arch, class_names), provenance


def published_content(classifier: Classifier, arch: ResNetArchitecture, provenance: Provenance) -> dict[str, Any]:
    """What such a file is to hold for a network whose variables fit its architecture `arch`.

    Beside the parts of the published files stands only what those do not tell.

    Raises:
        UserError: the provenance contradicts the network or holds what such a file cannot.
    """
    robust = arch.activation == "half_huber"
    flags = {"robust_additions": robust, "adversarial_training": False, "l2_min": False} | dict(provenance.options)
    if flags["robust_additions"] != robust:
        raise UserError(
            f"cannot write {provenance.name} for PyTorch: expected robust_additions={robust} "
            f"for the activation {arch.activation}, got {flags['robust_additions']}"
        )
    tensors = to_torch(classifier.variables, arch, provenance.batches_tracked)
    mean, std = tensors["input_offset"]
    options = TrainingOptions(arch, (shortest(mean), shortest(std)), flags, provenance.psi_integrator).plain()
    # The provenance may come out of somebody's file; what is written must be readable again.
    read_options(options, len(tensors), arch.image_shape)
    content: dict[str, Any] = dict(zip(PARTS, (OrderedDict(tensors), options), strict=True))
    if _told(arch, ResNetArchitecture.image_shape) != arch:
        content |= architecture_mark(arch)
    if classifier.class_names is not None:
        content |= class_names_mark(classifier)
    if provenance.psi is not None and provenance.psi != manifest_psi(provenance):
        content[PSI] = read_training_marks({PSI: provenance.psi}).psi
    return content


def _told(arch: ResNetArchitecture, image_shape: tuple[int, int, int] | None = None) -> ResNetArchitecture:
    """What tensors and options tell of an architecture: bowl widths in float32, and none for ReLU.

    Args:
        arch: the whole one.
        image_shape: of the images, which they do not tell; that of `arch` if None.
    """
    bowl_width = ResNetArchitecture.bowl_width
    if arch.activation == "half_huber":
        with np.errstate(over="ignore"):
            bowl_width = float(np.array(arch.bowl_width, np.float32))
    return replace(arch, bowl_width=bowl_width, image_shape=image_shape or arch.image_shape)


def _marked_architecture(value: dict[Any, Any]) -> ResNetArchitecture | None:
    """The architecture as a file of ours tells it beside the parts, if it does."""
    if ARCHITECTURE not in value:
        return None
    try:
        arch = read_architecture_mark(value)
        if not isinstance(arch, ResNetArchitecture):
            raise TypeError("another family")
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"expected the fields of an architecture beside {PARTS[0]}, got something else") from error
    return arch


def _check_activation(tensors: dict[str, np.ndarray], architecture: ResNetArchitecture) -> None:
    """Say it in words, where `check_tensors` would list every single bowl width."""
    bowl_widths = [name for name in tensors if name.endswith(".d")]
    if bowl_widths and architecture.activation == "relu":
        raise UserError(
            f"training_options say robust_additions=False, but there is a bowl width {shown(bowl_widths[0])}"
        )
    if not bowl_widths and architecture.activation == "half_huber":
        raise UserError("training_options say robust_additions=True, but no tensor is a bowl width (pipe.*.d)")
