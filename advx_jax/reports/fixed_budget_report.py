"""Accuracy left under attacks with a fixed budget, as JSON, a table and pictures."""

import math
from pathlib import Path
from typing import Any

from advx_jax.analysis.soundness import check_fit
from advx_jax.data.image_set import ImageSet
from advx_jax.files import check_output_folder
from advx_jax.networks.registry import ResolvedNetwork
from advx_jax.reports.console import length, table
from advx_jax.reports.fixed_budget_files import PICTURES_FOLDER, RESULTS_FILE, BrokenImages
from advx_jax.reports.fixed_budget_run import FORMAT, Measured, Plan, measured, stands
from advx_jax.reports.fixed_budget_warnings import warnings
from advx_jax.reports.results_json import head, write_json


def report_fixed_budget(
    network: ResolvedNetwork, data: ImageSet, plan: Plan, output: Path, overwrite: bool, pictures: bool
) -> str:
    """Measure the accuracy left within a ball around each of the first test images, and write what came out.

    Returns:
        A table by attack, and warnings.

    Raises:
        UserError: network and images do not fit, `output` holds results of other settings and must not be
            overwritten, or the network has too few classes for an attack.
    """
    check_fit(network.classifier, data)
    n_classes = network.classifier.architecture.n_classes
    for member in plan.members:
        member.check(n_classes)
    check_output_folder(output)
    files = BrokenImages(output, data)
    with measured(network, data, plan, output, files, overwrite) as found:
        settings = plan.depends_on(network, data) | {"n_images": plan.n_images}
        results = head("robustness", FORMAT, settings) | _results(plan, data, found)
        results["warnings"] = warnings(found.records, plan.members, n_classes)
        write_json(output / RESULTS_FILE, results)
        written = f"results: {output / RESULTS_FILE}"
        if pictures:
            n_pictures = files.write_pictures(found.records)
            written += f", {n_pictures} pictures: {output / PICTURES_FOLDER}"
    return _verdict(network.provenance.name, plan, results, written)


def _results(plan: Plan, data: ImageSet, found: Measured) -> dict[str, Any]:
    records = found.records
    n = len(records)
    left = sum(record["correct"] for record in records)
    accuracy = left / n
    attacks = []
    for member in plan.members:
        broken = sum(record.get("broken_by") == member.name for record in records)
        left -= broken
        seconds = found.seconds.get(member.name, 0.0)
        attacks.append({"name": member.name, "broken": broken, "accuracy_left": left / n, "seconds": seconds})
    pixels = math.prod(data.images.shape[1:])
    return {
        "data": data.source,
        "eps_rms": plan.eps / math.sqrt(pixels) if plan.norm == "L2" else plan.eps,
        "accuracy": accuracy,
        "robust_accuracy": left / n,
        "attacks": attacks,
        "correct": [record["correct"] for record in records],
        "stands": [stands(record) for record in records],
        "broken_by": [record.get("broken_by") for record in records],
        "predicted": [record.get("predicted") for record in records],
        "distances": [record.get("distance") for record in records],
    }


def _verdict(name: str, plan: Plan, results: dict[str, Any], written: str) -> str:
    n, norm = plan.n_images, "L∞" if plan.norm == "Linf" else plan.norm
    relation = "=" if plan.norm == "L2" else "≤"
    ball = f"{norm} {length(plan.eps)} (RMS {relation} {results['eps_rms']:.5f})"
    title = f"{name}: accuracy within {ball} of the first {n} test images, seed {plan.seed}\ndata: {results['data']}"
    rows: list[tuple[object, ...]] = [("none", "", f"{results['accuracy']:.4f}", "")]
    rows += [
        (attack["name"], attack["broken"], f"{attack['accuracy_left']:.4f}", f"{attack['seconds']:.1f}")
        for attack in results["attacks"]
    ]
    body = table(("attack", "broken", "accuracy left", "seconds"), rows)
    notes = [f"warning: {line}" for line in results["warnings"]]
    return "\n".join([title, body, *notes, written])
