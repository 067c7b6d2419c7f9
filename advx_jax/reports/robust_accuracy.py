"""Accuracy left under attacks with a fixed epsilon, as JSON and a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advx_jax.attacks import Attack
from advx_jax.attacks.threat_model import ThreatModel
from advx_jax.reports.console import length, table
from advx_jax.reports.results_json import write_json
from advx_jax.reports.robust_accuracy_warnings import is_robust, warnings

RESULTS_FILE = "robustness.json"
TRANSFER = "transfer"
"""What broke an image that was broken elsewhere, and is so here."""


def write_robust_accuracy(
    output: Path,
    head: Mapping[str, Any],
    threat: ThreatModel,
    attacks: Sequence[Attack],
    records: Sequence[Mapping[str, Any]],
    seconds: Mapping[str, float],
    n_classes: int,
    n_values: int,
    started_elsewhere: bool = False,
) -> str:
    """Write `robustness.json`.

    Args:
        output: the folder.
        head: first entries of the results, with settings and the source of the data.
        threat: the ball.
        attacks: in their order.
        records: of the images, in their order.
        seconds: that each attack took, by its name.
        n_classes: of the network.
        n_values: height·width·channels of an image.
        started_elsewhere: images that were broken elsewhere were looked at first.

    Returns:
        A table by attack, and warnings.
    """
    n = len(records)
    left = sum(record["correct"] for record in records)
    accuracy = left / n
    by_attack = []
    for name in (*([TRANSFER] if started_elsewhere else []), *(attack.name for attack in attacks)):
        broken = sum(record.get("broken_by") == name for record in records)
        left -= broken
        taken = seconds.get(name, 0.0)
        by_attack.append({"name": name, "broken": broken, "accuracy_left": left / n, "seconds": taken})
    results = {
        **head,
        "eps_rms": threat.largest_rms(n_values),
        "accuracy": accuracy,
        "robust_accuracy": left / n,
        "attacks": by_attack,
        "correct": [record["correct"] for record in records],
        "stands": [is_robust(record) for record in records],
        "broken_by": [record.get("broken_by") for record in records],
        "predicted": [record.get("predicted") for record in records],
        "distances": [record.get("distance") for record in records],
        "warnings": warnings(records, attacks, n_classes, head["settings"].get("random_network", False)),
    }
    write_json(output / RESULTS_FILE, results)
    return _table(results, threat)


def _table(results: Mapping[str, Any], threat: ThreatModel) -> str:
    settings, norm = results["settings"], "L∞" if threat.norm == "Linf" else threat.norm
    relation = "=" if threat.norm == "L2" else "≤"
    ball = f"{norm} {length(threat.eps)} (RMS {relation} {results['eps_rms']:.5f})"
    images = f"the first {settings['n_images']} test images, seed {settings['seed']}"
    rows: list[tuple[object, ...]] = [("none", "", f"{results['accuracy']:.4f}", "")]
    rows += [
        (attack["name"], attack["broken"], f"{attack['accuracy_left']:.4f}", f"{attack['seconds']:.1f}")
        for attack in results["attacks"]
    ]
    return "\n".join(
        [
            f"{settings['model']}: accuracy within {ball} of {images}",
            f"data: {results['data']}",
            table(("attack", "broken", "accuracy left", "seconds"), rows),
            *(f"warning: {line}" for line in results["warnings"]),
        ]
    )
