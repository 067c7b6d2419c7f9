"""Networks in PyTorch's `.pt` files."""

import hashlib
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

from advx_jax.errors import UserError
from advx_jax.files import atomic_write
from advx_jax.messages import one_line, shown
from advx_jax.networks.classifier import Classifier, Provenance
from advx_jax.networks.files import check_variables
from advx_jax.networks.resnet import ResNetArchitecture

from .containers import read_container
from .family_files import Hints, family_content, read_family
from .pickle_writer import pickle_with_tensors
from .published import is_published, published_content, read_published

# Four times a WideResNet-70-16; a larger file is refused before it is read.
_LARGEST_FILE = 4 * 2**30


def read_pt(
    path: Path,
    architecture: str | None = None,
    normalisation: str | None = None,
    *,
    state_dict: str | None = None,
    default_normalisation: str | None = None,
    image_shape: tuple[int, int, int] | None = None,
) -> tuple[Classifier, Provenance]:
    """Read a network that PyTorch saved, or `write_pt`; nothing in the file is executed, and no PyTorch is needed.

    What is read: the method's own networks (docs/method.md, Published networks), and state dicts of the families
    in docs/networks.md, in whatever people wrap them. Of several state dicts in one file, a line on stderr says
    which was taken.

    Args:
        path: of the file.
        architecture: name of the network's architecture, where the file does not tell it.
        normalisation: of the images, where the file does not tell it: as `Normalisation.parse` takes it.
        state_dict: key of the state dict in the file, parts joined by dots; looked for if None.
        default_normalisation: like `normalisation`, but what the file tells counts more.
        image_shape: height, width and channels of the images that the network is made for, where these are
            not the ones that its family is made for.

    Returns:
        The network and its provenance, named after the file.

    Raises:
        UserError: the file is missing, damaged, holds anything beyond tensors and plain values, or no network
            that is known here; or it does not tell what must be known.
    """
    hints = Hints(architecture, normalisation, default_normalisation, state_dict, image_shape)
    notes: list[str] = []
    try:
        data = _read_bytes(path)
        contents = read_container(data)
        if is_published(contents.value):
            if hints != Hints():
                raise UserError("it tells everything itself: expected no --architecture, --normalise, --state_dict")
            classifier, provenance = read_published(contents)
        else:
            classifier, provenance, notes = read_family(contents, hints)
    except UserError as error:
        raise UserError(f"cannot read the network {path}: {error}") from error
    for note in notes:
        sys.stderr.write(f"{one_line(f'{path}: {note}')}\n")
    return classifier, replace(provenance, name=path.stem, source_sha256=hashlib.sha256(data).hexdigest())


def write_pt(path: Path, classifier: Classifier, provenance: Provenance) -> None:
    """Write a network for PyTorch users, whole or not at all; no PyTorch is needed.

    `torch.load(path, weights_only=True)` gives, for the method's own networks, `{'model_params': OrderedDict of
    tensors, 'training_options': dict}`, as in the published files, with None for the function in `arch`; for
    those of other families, `{'state_dict': OrderedDict of tensors, …}`, which loads strictly into the class
    that the network came from. `read_pt` gives the network back, bit for bit.

    Args:
        path: of the file, a PyTorch zip archive.
        classifier: to be written.
        provenance: its options and ψ integrator become `training_options`.

    Raises:
        UserError: the variables are not the architecture's, or the provenance contradicts it or
            holds what PyTorch's file cannot.
    """
    arch = classifier.architecture
    check_variables(classifier.variables, arch, provenance.name)
    if not isinstance(provenance.batches_tracked, int) or not 0 <= provenance.batches_tracked < 2**63:
        raise UserError(f"expected a count of batches in the provenance, got {shown(provenance.batches_tracked)}")
    if isinstance(arch, ResNetArchitecture):
        content = published_content(classifier, arch, provenance)
    else:
        content = family_content(classifier, provenance)
    pickled, storages = pickle_with_tensors(content)
    entries = {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n"}
    entries |= {f"data/{key}": storage for key, storage in enumerate(storages)}
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, stored in entries.items():
            # A ZipInfo of its own dates from 1980, so that equal networks make equal files.
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), stored)


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
