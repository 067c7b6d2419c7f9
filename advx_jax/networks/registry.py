"""Networks by name or path: whatever a person gives as `--model`."""

import hashlib
import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

from advx_jax.cache import at_home, cache_dir
from advx_jax.errors import UserError
from advx_jax.importing import is_import_name
from advx_jax.messages import nearest
from advx_jax.networks.classifier import Classifier, Provenance
from advx_jax.networks.files import SUFFIX, load_network
from advx_jax.networks.folders import network_folders, shipped_folder
from advx_jax.networks.own_classifier import OwnClassifier
from advx_jax.networks.precision import InferenceDtype
from advx_jax.networks.robustbench import PREFIX, RobustBenchEntry, robustbench_entry, robustbench_file

WORKDIR_NETWORK = f"network{SUFFIX}"
"""File in a training workdir that holds the trained network."""

# As training calls it, which this room does not know.
_WORKDIR_CHECKPOINTS = "checkpoints"
_PYTORCH_SUFFIXES = (".pt", ".pth")
_SIMILAR_ENOUGH = 0.4


class ResolvedNetwork(NamedTuple):
    """A network that was found.

    Attributes:
        classifier: the network.
        provenance: where its numbers come from; named as in the manifest if it has a name there.
        path: the file that it was read from.
    """

    classifier: Classifier
    provenance: Provenance
    path: Path


@runtime_checkable
class NamedModel(Protocol):
    """What is measured: a network that was found, or a person's own classifier under a name."""

    @property
    def classifier(self) -> Classifier | OwnClassifier:
        """Images to logits."""

    @property
    def provenance(self) -> Provenance:
        """What it is called, and where its numbers come from."""


class OwnModel(NamedTuple):
    """A person's own classifier, and what it is called."""

    classifier: Classifier | OwnClassifier
    provenance: Provenance


class FileHints(NamedTuple):
    """What a person tells of a PyTorch file that does not tell it itself.

    Attributes:
        architecture: name of the network's architecture.
        normalise: how images are normalised.
        state_dict: key of the state dict in the file.
    """

    architecture: str | None = None
    normalise: str | None = None
    state_dict: str | None = None


NO_HINTS = FileHints()
"""Where nobody tells anything."""


class ManifestEntry(NamedTuple):
    """What must be known to find a network by its name.

    Attributes:
        name: for instance "resnet44-all".
        file: name of its file as published.
        sha256: of that file.
        url: where that file can be had, if it does not ship with the package.
        psi: final weight of the Lipschitz penalty, which the file itself may not tell; None without a penalty.
    """

    name: str
    file: str
    sha256: str
    url: str | None
    psi: float | None = None


class FirstChoice(NamedTuple):
    """The networks that are taken where nobody names one; both ship with the package.

    Attributes:
        robust: name of the best robust network.
        ordinary: name of one trained without anything special, for comparison.
    """

    robust: str
    ordinary: str


def manifest() -> dict[str, ManifestEntry]:
    """All networks that have a name, by name."""
    return {
        name: ManifestEntry(name, fields["file"], fields["sha256"], fields.get("url"), _final_psi(fields))
        for name, fields in _manifest()["networks"].items()
    }


def _final_psi(fields: Mapping[str, Any]) -> float | None:
    psi = {**fields.get("published", {}), **fields.get("trained", {})}.get("final_psi")
    return None if psi is None else float(psi)


def first_choice() -> FirstChoice:
    """The networks to take where nobody names one."""
    return FirstChoice(**_manifest()["first_choice"])


def _manifest() -> dict[str, Any]:
    content = (importlib.resources.files("advx_jax.prebuilt") / "manifest.json").read_text(encoding="utf-8")
    return cast(dict[str, Any], json.loads(content))


def resolve_network(model: str, hints: FileHints = NO_HINTS) -> ResolvedNetwork:
    """Find and read a network.

    Args:
        model: in this order: a name in the manifest; the path of a `.safetensors` file; the path of
            a PyTorch `.pt` or `.pth` file, converted in memory; a training workdir; one of RobustBench's
            names, `robustbench:cifar10/L2/Rice2020Overfitting`. A name is looked
            for, converted or as published, in `./prebuilt`, the package's own `prebuilt`,
            `$ADVX_PREBUILT` and the user's cache, and is downloaded into the cache if it is nowhere;
            RobustBench's files are looked for in `./models` besides, and never downloaded.
        hints: for a PyTorch file.

    Raises:
        UserError: there is no such network, its file is damaged or not the one that the manifest
            means, or it cannot be downloaded; or there are hints, but no PyTorch file.
    """
    path = at_home(model)
    if hints != NO_HINTS and (model in manifest() or path.suffix not in _PYTORCH_SUFFIXES):
        given = [f"--{name}" for name, value in hints._asdict().items() if value is not None]
        raise UserError(f"expected a PyTorch file as --model for {' and '.join(given)}, got {model}")
    entries = manifest()
    if model in entries:
        return find_by_name(entries[model])
    if model.startswith(PREFIX):
        return _from_robustbench(robustbench_entry(model.removeprefix(PREFIX)))
    try:
        if path.suffix == SUFFIX or path.suffix in _PYTORCH_SUFFIXES:
            _check_shipped(path, entries)
            return _read(path, hints)
        if model and path.is_dir():
            _check_has_network(path, model)
            return _read(path / WORKDIR_NETWORK)
    except OSError as error:
        raise UserError(f"cannot read the network {model}: {error.strerror}") from error
    raise UserError(
        f"expected a network by name ({', '.join(entries)}), a {SUFFIX} or .pt file, a training workdir, "
        f"{PREFIX}NAME or package.module:name, got {model!r}{nearest(model, entries, _SIMILAR_ENOUGH)}"
    )


def resolve_model(model: str, hints: FileHints = NO_HINTS) -> ResolvedNetwork | OwnModel:
    """Find what is to be measured.

    Args:
        model: see `resolve_network`; or `package.module:name`, which imports a person's own code
            (`own_code.own_classifier`).
        hints: for a PyTorch file.

    Raises:
        UserError: see there.
    """
    known = model in manifest() or model.startswith(PREFIX) or at_home(model).exists()
    if known or hints != NO_HINTS or not is_import_name(model):
        return resolve_network(model, hints)
    # Other frameworks' modules are known there, which takes a while to import.
    from advx_jax.networks.own_code import own_classifier

    return OwnModel(own_classifier(model), Provenance(name=model))


def computed_in(model: ResolvedNetwork | OwnModel, compute_dtype: InferenceDtype) -> ResolvedNetwork | OwnModel:
    """The same network, with its convolutions computed in another type.

    Raises:
        UserError: it is a person's own function, which computes as it is written.
    """
    classifier = model.classifier
    if compute_dtype == getattr(classifier, "compute_dtype", "float32"):
        return model
    if not isinstance(classifier, Classifier):
        raise UserError(
            f"expected --compute_dtype for a network of this package's architectures, got it with {classifier!r}: it "
            "computes as it is written"
        )
    return model._replace(classifier=replace(classifier, compute_dtype=compute_dtype))


def _check_has_network(workdir: Path, model: str) -> None:
    """Say how a run that has not come to its end gives a network."""
    if (workdir / _WORKDIR_CHECKPOINTS).is_dir() and not (workdir / WORKDIR_NETWORK).exists():
        raise UserError(
            f"expected a trained network in the workdir {model}, got checkpoints only: "
            f"`python -m advx_jax.train --workdir={model} --export` makes a network of the last one"
        )


def find_by_name(entry: ManifestEntry) -> ResolvedNetwork:
    """Find a network of the manifest, or download it, and make sure that it is the one that is meant.

    Raises:
        UserError: see `resolve_network`.
    """
    names = dict.fromkeys((f"{entry.name}{SUFFIX}", entry.file))
    found = (folder / name for folder in network_folders() for name in names if (folder / name).is_file())
    path = next(found, None) or _download(entry)
    if path.name == entry.file:
        # Before the file is taken apart, so that a wrong file is called wrong and not damaged.
        _check_sha256(entry, path, hashlib.sha256(path.read_bytes()).hexdigest())
        network = _read(path)
    else:
        network = _read(path)
        _check_sha256(entry, path, network.provenance.source_sha256)
    psi = entry.psi if network.provenance.psi is None else network.provenance.psi
    return network._replace(provenance=replace(network.provenance, name=entry.name, psi=psi))


def manifest_psi(provenance: Provenance) -> float | None:
    """ψ of a network that was published with the paper, of which its file has r alone; None for others."""
    psi = {entry.sha256: entry.psi for entry in manifest().values() if entry.url is not None}
    return psi.get(provenance.source_sha256 or "")


def _read(path: Path, hints: FileHints = NO_HINTS) -> ResolvedNetwork:
    network = _read_as_it_is(path, hints)
    provenance = network.provenance
    if provenance.psi is None and provenance.psi_integrator is not None:
        provenance = replace(provenance, psi=manifest_psi(provenance))
    return network._replace(provenance=provenance)


def _read_as_it_is(path: Path, hints: FileHints) -> ResolvedNetwork:
    if path.suffix in _PYTORCH_SUFFIXES:
        # Here and below advx_jax reaches for convert, and only when a PyTorch file is given.
        from advx_jax.convert import read_pt

        return ResolvedNetwork(*read_pt(path, hints.architecture, hints.normalise, state_dict=hints.state_dict), path)
    return ResolvedNetwork(*load_network(path), path)


def _from_robustbench(entry: RobustBenchEntry) -> ResolvedNetwork:
    from advx_jax.convert import read_pt

    path = robustbench_file(entry)
    classifier, provenance = read_pt(
        path,
        entry.architecture,
        default_normalisation=entry.normalisation,
        image_shape=(entry.image_side, entry.image_side, 3) if entry.image_side else None,
    )
    name = f"{entry.name}-{entry.data}-{entry.threat}"
    return ResolvedNetwork(classifier, replace(provenance, name=name), path)


def _check_shipped(path: Path, entries: Mapping[str, ManifestEntry]) -> None:
    """A file that ships with the package must be what was shipped, also where it is named by its path.

    Raises:
        UserError: it is damaged.
    """
    entry = next((entry for entry in entries.values() if entry.file == path.name), None)
    if entry and path.is_file() and path.resolve().parent == shipped_folder().resolve():
        _check_sha256(entry, path, hashlib.sha256(path.read_bytes()).hexdigest())


def _check_sha256(entry: ManifestEntry, path: Path, sha256: str | None) -> None:
    if sha256 != entry.sha256:
        whose = "" if path.name == entry.file else f" of the {entry.file} that it was converted from"
        raise UserError(f"{path} is not {entry.name}: expected sha256{whose} {entry.sha256}, got {sha256 or 'none'}")


def _download(entry: ManifestEntry) -> Path:
    remedy = f"put {entry.file} with sha256 {entry.sha256} into ./prebuilt, $ADVX_PREBUILT or {cache_dir()}"
    if entry.url is None:
        raise UserError(f"cannot find the network {entry.name}: {remedy}")
    # It takes a while to import, and most calls find their network.
    import pooch

    try:
        known_hash = f"sha256:{entry.sha256}"
        return Path(pooch.retrieve(entry.url, known_hash, entry.file, cache_dir(), progressbar=True))
    except (OSError, ValueError) as error:
        # What the network layers say fills many lines; the kind of failure tells a person as much.
        reason = type(error).__name__ if isinstance(error, OSError) else " ".join(str(error).split())
        raise UserError(f"cannot download the network {entry.name} ({reason}): {remedy}") from error
