"""Results of an earlier call in the same folder: to go on from, to refuse, or to replace."""

from collections.abc import Mapping
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


def earlier_results(path: Path, new: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """Read the results that an earlier call left, if this one may go on from them.

    Args:
        path: the results file.
        new: head of the results to be made.
        overwrite: whether results of other settings may be replaced.

    Returns:
        The earlier results, if they were made with the same settings; None if there are none, or if
        they are to be replaced.

    Raises:
        UserError: there are results of other settings and they must not be replaced.
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
        return earlier
    if overwrite:
        return None
    before = earlier.get("settings", {})
    differing = [f"{k}={before.get(k)} there, {v} now" for k, v in new["settings"].items() if before.get(k) != v]
    raise UserError(
        f"{path} holds results of other settings ({'; '.join(differing)}): choose another --output, or --overwrite"
    )
