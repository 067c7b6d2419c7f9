"""Accuracy-robustness area as files: JSON and a curve; distances are kept as they come."""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from advx_jax.analysis.robustness_area import KINDS, Distances, minimum_norm_distances, robustness_curve
from advx_jax.analysis.subset import published_subset
from advx_jax.attacks.chain import MinimumNormAttack
from advx_jax.data.image_set import CIFAR10_CLASSES, ImageSet, unit_images
from advx_jax.networks.registry import ResolvedNetwork
from advx_jax.reports.ara_curve import write_ara_curve
from advx_jax.reports.console import table
from advx_jax.reports.kept_work import attack_record, earlier_results
from advx_jax.reports.results_json import head, write_json
from advx_jax.runs.progress import progress

_FORMAT = 1
RESULTS_FILE = "ara.json"
DISTANCES_FILE = "distances.json"
CURVE_FILE = "ara.png"
# Images on the [0,1] scale at a time: four times the size of their pixels, so never all of them.
_BLOCK = 1024

# Of each image that was measured, by its index in the data set: the fields of `Distances`.
_Measured = dict[str, dict[str, list[Any]]]


def report_robustness(
    network: ResolvedNetwork, data: ImageSet, n_images: int, attack: MinimumNormAttack, output: Path, overwrite: bool
) -> str:
    """Measure attack and BTR ARA on the published subset, and write what came out.

    Distances are written to `distances.json` as chunks of images are finished; a later call with
    the same settings measures only what is missing, for fewer or more images too.

    Returns:
        A table of the two areas.

    Raises:
        UserError: `output` holds results of other settings and must not be overwritten.
    """
    indices = published_subset(n_images, len(data))
    depends_on = attack_record(network, attack.record()) | {"data_sha256": data.fingerprint}
    kept = head("ara", _FORMAT, depends_on) | {"measured": {kind: {} for kind in KINDS}}
    earlier = earlier_results(output / DISTANCES_FILE, kept, overwrite)
    if earlier is not None:
        kept["measured"] = earlier["measured"]
    measured: _Measured = kept["measured"]

    missing = {kind: [index for index in indices if str(index) not in measured[kind]] for kind in KINDS}
    done = sum(len(indices) - len(left) for left in missing.values())
    with progress(len(KINDS) * len(indices), "image", "ara", done) as update:
        spare = functools.partial(update, spared=True)
        for kind, left in missing.items():
            for block in (left[begin : begin + _BLOCK] for begin in range(0, len(left), _BLOCK)):
                images, labels = unit_images(data.images[block]), data.labels[block].astype(np.int32)
                for places, part in minimum_norm_distances(
                    network.classifier, images, labels, attack.until(KINDS[kind]), update, spare
                ):
                    for place, fields in zip(places, zip(*part, strict=True), strict=True):
                        measured[kind][str(block[place])] = [field.item() for field in fields]
                    # Lanes finish in any order; the file is the same all the same.
                    measured[kind] = dict(sorted(measured[kind].items(), key=lambda entry: int(entry[0])))
                    write_json(output / DISTANCES_FILE, kept)

    results = head("ara", _FORMAT, kept["settings"] | {"n_images": len(indices)}) | {"data": data.source}
    results["gradient_evaluations"] = attack.gradient_evaluations
    curves = {}
    for kind in KINDS:
        rows = [measured[kind][str(index)] for index in indices]
        distances = Distances(*(np.array(column) for column in zip(*rows, strict=True)))
        usable = distances.measured()
        curves[kind] = robustness_curve(distances.distances[usable], len(CIFAR10_CLASSES))
        results[kind] = {
            "ara": curves[kind].area,
            "n_images": len(indices),
            "n_misclassified_at_start": int((usable & (distances.distances == 0)).sum()),
            "n_never_crossed": int((~distances.crossed & distances.finite).sum()),
            "n_not_finite": int((~distances.finite).sum()),
            "n_late": int((usable & ~_in_time(distances, attack)).sum()),
            "indices": indices,
            "distances": np.where(usable, distances.distances, np.nan),
            "first_ok": distances.first_ok,
            "valid": usable & _in_time(distances, attack),
        }
    write_json(output / RESULTS_FILE, results)
    title = f"{network.provenance.name}: accuracy under attack, {len(indices)} test images"
    write_ara_curve(output / CURVE_FILE, curves, title)
    return _verdict(results, output)


def _in_time(distances: Distances, attack: MinimumNormAttack) -> np.ndarray:
    """Crossed early enough to leave half of the steps for shrinking, as the public code demands."""
    return distances.first_ok <= attack.steps // 2


def _verdict(results: dict[str, Any], output: Path) -> str:
    names = {"attack": "attack (misclassified)", "btr": "BTR (no better than random)"}
    rows = [
        (
            names[kind],
            f"{results[kind]['ara']:.4f}",
            results[kind]["n_images"],
            results[kind]["n_misclassified_at_start"],
            results[kind]["n_late"],
            results[kind]["n_never_crossed"] + results[kind]["n_not_finite"],
        )
        for kind in KINDS
    ]
    header = ("until", "ARA", "images", "at start", "late", "left out")
    cost = f"at most {results['gradient_evaluations']} gradient evaluations an image, for each area"
    return f"{table(header, rows)}\n{cost}\nresults: {output / RESULTS_FILE}, curve: {output / CURVE_FILE}"
