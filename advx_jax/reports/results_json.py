"""Results as strict JSON, written whole, with a head that tells how they came about."""

import hashlib
import json
import math
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from advx_jax.errors import UserError
from advx_jax.files import atomic_write
from advx_jax.messages import shown
from advx_jax.networks.random_classifier import RandomClassifier
from advx_jax.networks.registry import NamedModel
from advx_jax.strict_json import parsed_json

# Of a file of results or records; `command` is the second entry of its head.
_LONGEST_BEGIN = 200


def head(command: str, results_format: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The first entries of every results file.

    Args:
        command: the command that makes the results, for instance "explain".
        results_format: number of the layout of this kind of file; goes up when the layout changes.
        settings: everything that the results depend on.

    Returns:
        A dictionary to which the results themselves are added. Its `fingerprint` keeps partial
        results of other settings from being mixed with these.
    """
    return {
        "format": results_format,
        "command": command,
        "settings": dict(settings),
        "fingerprint": fingerprint(settings),
        "environment": environment(),
    }


def network_record(network: NamedModel) -> dict[str, Any]:
    """Everything that a network's answers depend on."""
    record: dict[str, Any] = {"model": network.provenance.name, "network_sha256": network.classifier.fingerprint()}
    compute_dtype = getattr(network.classifier, "compute_dtype", "float32")
    # What most results have stays unsaid, as it was in files of earlier releases.
    if compute_dtype != "float32":
        record["compute_dtype"] = compute_dtype
    if isinstance(network.classifier, RandomClassifier):
        record["random_network"] = True
    return record


def attack_record(network: NamedModel, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that an attack's result depends on, apart from its image."""
    return network_record(network) | dict(settings)


def environment() -> dict[str, Any]:
    """Versions of what the numbers depend on, and the device that they were computed on."""
    # Imported here because reading or writing JSON should not have to wait for JAX.
    import flax
    import jax
    import jaxlib

    import advx_jax

    # Of this process, whatever others it has joined.
    device = jax.local_devices()[0]
    return {
        "advx_jax": advx_jax.__version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "flax": flax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.local_device_count()},
    }


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Digest of settings: equal for equal settings, whatever their order.

    Returns:
        The sha256, in hexadecimal digits, of the settings as JSON with sorted keys.

    Raises:
        UserError: a setting is not a finite number.
    """
    try:
        text = json.dumps(_plain(settings, non_finite_as_null=False), sort_keys=True, allow_nan=False)
    except ValueError as error:
        raise UserError(f"expected finite numbers as settings, got {dict(settings)}") from error
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """Write results to `path`, whole or not at all.

    Entries keep their order. Numpy and JAX arrays become lists, and every number is read back with
    the value that it has here. NaN and the infinities, which JSON does not have, become null.

    Raises:
        TypeError: something in the results has no form in JSON.
    """
    text = json.dumps(_plain(results, non_finite_as_null=True), indent=2, allow_nan=False) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path, results_format: int | None = None) -> dict[str, Any]:
    """Read a file that `write_json` wrote.

    Args:
        path: the file.
        results_format: the `format` that the file must have; None takes any.

    Raises:
        UserError: the file is missing, is no strict JSON object, or has another format.
    """
    try:
        results = parsed_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read the results {path}: {error}") from error
    if not isinstance(results, dict):
        raise UserError(f"expected a JSON object in {path}, got {type(results).__name__}")
    if results_format is not None and results.get("format") != results_format:
        raise UserError(f"expected results of format {results_format} in {path}, got {shown(results.get('format'))}")
    return results


def check_replaceable(path: Path, command: str) -> None:
    """Make sure, before any work, that results take no other file's place.

    Raises:
        UserError: there is a file that this command has not written: a network, or somebody's notes.
    """
    if not path.exists():
        return
    with path.open("rb") as stream:
        begin = stream.read(_LONGEST_BEGIN)
    # A process that was killed may have left a file of records empty.
    if begin and f'"command": "{command}"'.encode() not in begin:
        raise UserError(f"expected results of {command} in {path}, or no file, got another file: choose another name")


def older_results(path: Path, records_of: Callable[[dict[str, Any]], Any]) -> dict[str, Any] | None:
    """Read what an earlier release kept of unfinished work, for a store to go on from.

    Args:
        path: the file.
        records_of: gives the records in it, by key.

    Returns:
        A head with the records as `records`; None if there is no such file.

    Raises:
        UserError: it cannot be read.
    """
    if not path.exists():
        return None
    results = read_json(path)
    try:
        return results | {"records": records_of(results)}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(
            f"expected results of an earlier release in {path}, got others: --overwrite, or remove it"
        ) from error


def plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as JSON has it; NaN and the infinities become null, and flags beside them say what they are."""
    return dict(_plain(record, non_finite_as_null=True))


def _plain(value: Any, *, non_finite_as_null: bool) -> Any:
    """Turn a value into what JSON has: None, bool, int, float, str, list, dict."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return None if non_finite_as_null and not math.isfinite(value) else value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise TypeError(f"expected strings as keys of results, got {wrong[0]!r}")
        return {key: _plain(item, non_finite_as_null=non_finite_as_null) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, non_finite_as_null=non_finite_as_null) for item in value]
    if hasattr(value, "__array__"):
        return _plain(np.asarray(value).tolist(), non_finite_as_null=non_finite_as_null)
    raise TypeError(f"expected numbers, strings, lists and dictionaries as results, got {type(value).__name__}")
