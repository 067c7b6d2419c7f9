"""Networks in PyTorch's `.pt` files."""

import hashlib
import math
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np

from advx_jax.errors import UserError
from advx_jax.files import atomic_write
from advx_jax.messages import shown
from advx_jax.networks.classifier import Classifier, Provenance
from advx_jax.networks.files import check_numbers, check_variables
from advx_jax.networks.resnet import ResNetArchitecture

from .containers import Contents, read_container
from .keys import Kind, check_tensors, common_value, to_flax, to_torch
from .options import TrainingOptions, read_options, shortest
from .pickle_writer import pickle_with_tensors
from .state_dict import contents_shown, read_tensors, with_counters

# Four times a WideResNet-70-16; a larger file is refused before it is read.
_LARGEST_FILE = 4 * 2**30
_PARTS = ("model_params", "training_options")


def read_pt(path: Path) -> tuple[Classifier, Provenance]:
    """Read a network that the method's PyTorch code, or `write_pt`, saved; nothing in it is executed.

    Both of PyTorch's formats are read, the zip archive and the legacy one, without PyTorch.

    Args:
        path: of a file with `model_params` and `training_options` (docs/method.md, Published networks).

    Returns:
        The network and its provenance, named after the file.

    Raises:
        UserError: the file is missing, damaged, holds anything beyond tensors and plain values, or
            its tensors are not those of the architecture that its options tell.
    """
    try:
        data = _read_bytes(path)
        contents = read_container(data)
        classifier, provenance = _network(contents)
    except UserError as error:
        raise UserError(f"cannot read the network {path}: {error}") from error
    return classifier, replace(provenance, name=path.stem, source_sha256=hashlib.sha256(data).hexdigest())


def write_pt(path: Path, classifier: Classifier, provenance: Provenance) -> None:
    """Write a network for PyTorch users, whole or not at all; no PyTorch is needed.

    `torch.load(path, weights_only=True)` gives `{'model_params': OrderedDict of tensors,
    'training_options': dict}`, as in the published files, with None for the function in `arch`.
    `read_pt` gives the network back, bit for bit.

    Args:
        path: of the file, a PyTorch zip archive.
        classifier: to be written.
        provenance: its options and ψ integrator become `training_options`.

    Raises:
        UserError: the variables are not the architecture's, or the provenance contradicts it or
            holds what PyTorch's file cannot.
    """
    arch = classifier.architecture
    if not isinstance(arch, ResNetArchitecture):
        raise UserError(f"cannot write {provenance.name} for PyTorch: no table of tensor names for {arch.name}")
    check_variables(classifier.variables, arch, provenance.name)
    robust = arch.activation == "half_huber"
    flags = {"robust_additions": robust, "adversarial_training": False, "l2_min": False} | dict(provenance.options)
    if flags["robust_additions"] != robust:
        raise UserError(
            f"cannot write {provenance.name} for PyTorch: expected robust_additions={robust} "
            f"for the activation {arch.activation}, got {flags['robust_additions']}"
        )
    if not isinstance(provenance.batches_tracked, int) or not 0 <= provenance.batches_tracked < 2**63:
        raise UserError(f"expected a count of batches in the provenance, got {shown(provenance.batches_tracked)}")
    tensors = to_torch(classifier.variables, arch, provenance.batches_tracked)
    mean, std = tensors["input_offset"]
    options = TrainingOptions(arch, (shortest(mean), shortest(std)), flags, provenance.psi_integrator).plain()
    # The provenance may come out of somebody's file; what is written must be readable again.
    read_options(options, len(tensors))
    pickled, storages = pickle_with_tensors(dict(zip(_PARTS, (OrderedDict(tensors), options), strict=True)))
    entries = {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n"}
    entries |= {f"data/{key}": content for key, content in enumerate(storages)}
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            # A ZipInfo of its own dates from 1980, so that equal networks make equal files.
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)


def _read_bytes(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise UserError("expected a file, got something else" if path.exists() else "no such file")
        # Looked at first, because a large file costs nothing to make but memory to read.
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            raise UserError(f"expected a file of at most {_LARGEST_FILE} bytes, got {size}")
        return path.read_bytes()
    except OSError as error:
        raise UserError(error.strerror or str(error)) from error


def _network(contents: Contents) -> tuple[Classifier, Provenance]:
    value = contents.value
    if not isinstance(value, dict) or value.keys() != set(_PARTS):
        raise UserError(f"expected a dict of {' and '.join(_PARTS)}, got {contents_shown(value)}")
    specs, options = value["model_params"], value["training_options"]
    if not isinstance(specs, dict):
        raise UserError(f"expected a dict of tensors as model_params, got {shown(specs)}")
    tensors = with_counters(read_tensors(specs, contents))
    options = read_options(options, len(tensors))
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
    batches_tracked = common_value(tensors, arch, Kind.BATCHES_TRACKED)
    if not isinstance(batches_tracked, int) or batches_tracked < 0:
        raise UserError(f"expected a count of batches in num_batches_tracked, got {batches_tracked}")
    check_numbers({**tensors, "input_offset/std": tensors["input_offset"][1]}, "model_params")
    provenance = Provenance(
        options=tuple(sorted(options.flags.items())),
        psi_integrator=options.psi_integrator,
        batches_tracked=batches_tracked,
    )
    return Classifier(to_flax(tensors, arch), arch), provenance


def _check_activation(tensors: dict[str, np.ndarray], architecture: ResNetArchitecture) -> None:
    """Say it in words, where `check_tensors` would list every single bowl width."""
    bowl_widths = [name for name in tensors if name.endswith(".d")]
    if bowl_widths and architecture.activation == "relu":
        raise UserError(
            f"training_options say robust_additions=False, but there is a bowl width {shown(bowl_widths[0])}"
        )
    if not bowl_widths and architecture.activation == "half_huber":
        raise UserError("training_options say robust_additions=True, but no tensor is a bowl width (pipe.*.d)")
