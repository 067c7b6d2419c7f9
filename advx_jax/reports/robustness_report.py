"""Accuracy-robustness area as files: JSON and a curve; distances are kept as they come."""

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from advx_jax.analysis.robustness_area import (
    KINDS,
    Distances,
    RobustnessCurve,
    minimum_norm_distances,
    robustness_curve,
)
from advx_jax.analysis.soundness import check_fit
from advx_jax.analysis.subset import published_subset
from advx_jax.attacks.chain import MinimumNormAttack
from advx_jax.data.image_set import ImageSet, unit_images
from advx_jax.networks.registry import ResolvedNetwork
from advx_jax.reports.ara_curve import area_in_words, write_ara_curve
from advx_jax.reports.console import table
from advx_jax.reports.earlier_checks import check_measured
from advx_jax.reports.kept_work import attack_record, earlier_results
from advx_jax.reports.results_json import head, write_json
from advx_jax.runs.progress import progress

_FORMAT = 1
RESULTS_FILE = "ara.json"
DISTANCES_FILE = "distances.json"
CURVE_FILE = "ara.png"
# Images on the [0,1] scale at a time: four times the size of their pixels, so never all of them.
_BLOCK = 1024

# Of each image that was measured, by its index in the data set: the fields of `Distances`. A distance that is not
# finite is null, or 0 in older files; which kind it is, the fields after it say.
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
        UserError: network and images do not fit, or `output` holds results of other settings and must not be
            overwritten.
    """
    check_fit(network.classifier, data)
    indices = published_subset(n_images, len(data))
    depends_on = attack_record(network, attack.record()) | {"data_sha256": data.fingerprint}
    kept = head("ara", _FORMAT, depends_on) | {"measured": {kind: {} for kind in KINDS}}
    check = functools.partial(check_measured, kinds=KINDS, n=len(data))
    earlier = earlier_results(output / DISTANCES_FILE, kept, overwrite, check)
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
    n_classes = network.classifier.architecture.n_classes
    curves = {}
    for kind in KINDS:
        distances = _distances([measured[kind][str(index)] for index in indices])
        usable = distances.measured()
        curves[kind] = curve = robustness_curve(distances.distances, n_classes)
        results[kind] = {
            "ara": curve.area,
            "ara_at_least": curve.at_least,
            "n_classes": n_classes,
            "n_images": len(indices),
            "n_misclassified_at_start": int((usable & (distances.distances == 0)).sum()),
            "n_never_crossed": curve.n_uncrossed,
            "n_not_finite": curve.n_left_out,
            "n_late": int((usable & ~_in_time(distances, attack)).sum()),
            "indices": indices,
            "distances": distances.distances,
            "first_ok": distances.first_ok,
            "crossed": distances.crossed,
            "finite": distances.finite,
            "valid": usable & _in_time(distances, attack),
        }
    write_json(output / RESULTS_FILE, results)
    title = f"{network.provenance.name}: accuracy under attack, {len(indices)} test images"
    write_ara_curve(output / CURVE_FILE, curves, title, n_classes, math.prod(data.images.shape[1:]))
    return _verdict(results, curves, output)


def _distances(rows: list[list[Any]]) -> Distances:
    """What `distances.json` holds of images."""
    rms, first_ok, crossed, finite = (list(column) for column in zip(*rows, strict=True))
    known = [math.nan if value is None else value for value in rms]
    return Distances.found(np.array(known), np.array(first_ok), np.array(crossed), np.array(finite))


def _in_time(distances: Distances, attack: MinimumNormAttack) -> np.ndarray:
    """Crossed early enough to leave half of the steps for shrinking, as the public code demands."""
    return distances.first_ok <= attack.steps // 2


def _verdict(results: dict[str, Any], curves: Mapping[str, RobustnessCurve], output: Path) -> str:
    names = {"attack": "attack (misclassified)", "btr": "BTR (no better than random)"}
    rows = [
        (
            names[kind],
            area_in_words(curves[kind]),
            results[kind]["n_images"],
            results[kind]["n_misclassified_at_start"],
            results[kind]["n_late"],
            results[kind]["n_never_crossed"],
            results[kind]["n_not_finite"],
        )
        for kind in KINDS
    ]
    header = ("until", "ARA", "images", "at start", "late", "never crossed", "left out")
    lines = [table(header, rows)]
    if any(math.isinf(curve.area) for curve in curves.values()):
        lines.append(
            "≥: more than a share of 1/K of the images was never crossed, so the area has no end and is given up to "
            "the largest distance found (more --steps, or another --attack, may cross them)"
        )
    if any(curve.n_left_out for curve in curves.values()):
        lines.append("left out: images with infinite or NaN logits on the way, which have no distance")
    lines.append(f"at most {results['gradient_evaluations']} gradient evaluations an image, for each area")
    lines.append(f"results: {output / RESULTS_FILE}, curve: {output / CURVE_FILE}")
    return "\n".join(lines)
