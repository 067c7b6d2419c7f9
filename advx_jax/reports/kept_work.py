"""Results of an earlier call in the same folder: to go on from, to refuse, or to replace."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from advx_jax.errors import UserError
from advx_jax.networks.registry import ResolvedNetwork
from advx_jax.reports.results_json import read_json


def attack_record(network: ResolvedNetwork, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that an attack's result depends on, apart from its image."""
    return {
        "model": network.provenance.name,
        "network_sha256": network.classifier.fingerprint(),
        **settings,
    }


def earlier_results(
    path: Path, new: dict[str, Any], overwrite: bool, check: Callable[[Mapping[str, Any]], None]
) -> dict[str, Any] | None:
    """Read the results that an earlier call left, if this one may go on from them.

    Args:
        path: the results file.
        new: head of the results to be made.
        overwrite: whether results of other settings may be replaced.
        check: raises a `UserError` if the rest of the file is not what such a call writes.

    Returns:
        The earlier results, if they were made with the same settings; None if there are none, or if
        they are to be replaced.

    Raises:
        UserError: there are results of other settings, or a damaged file, and they must not be replaced.
    """
    if not path.exists():
        return None
    try:
        earlier = read_json(path, new["format"])
    except UserError:
        if overwrite:
            return None
        raise
    if earlier.get("fingerprint") == new["fingerprint"]:
        try:
            check(earlier)
        except UserError as error:
            if overwrite:
                return None
            raise UserError(f"cannot go on from {path}: {error}; choose another --output, or --overwrite") from error
        return earlier
    if overwrite:
        return None
    found = earlier.get("settings")
    before = found if isinstance(found, dict) else {}
    differing = [f"{k}={before.get(k)} there, {v} now" for k, v in new["settings"].items() if before.get(k) != v]
    raise UserError(
        f"{path} holds results of other settings ({'; '.join(differing)}): choose another --output, or --overwrite"
    )
