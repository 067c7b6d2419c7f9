"""Accuracy-robustness areas as JSON, curves and a table."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Bool
from numpy import ndarray

from advx_jax.analysis.area_interval import area_interval
from advx_jax.analysis.robustness_area import Distances, RobustnessCurve
from advx_jax.reports.ara_curve import area_in_words, write_ara_curve
from advx_jax.reports.console import table
from advx_jax.reports.results_json import write_json
from advx_jax.reports.units import RMS, UNITS, area_text

RESULTS_FILE = "ara.json"
CURVE_FILE = "ara.png"
_NAMES = {"attack": "attack (misclassified)", "btr": "BTR (no better than random)"}


class MeasuredArea(NamedTuple):
    """An area and what it was computed from.

    Attributes:
        curve: with the area.
        distances: of the images.
        in_time: which images were crossed early enough for their distances to shrink.
    """

    curve: RobustnessCurve
    distances: Distances
    in_time: Bool[ndarray, " n"]


def write_areas(
    output: Path,
    head: Mapping[str, Any],
    areas: Mapping[str, MeasuredArea],
    indices: Sequence[int],
    n_classes: int,
    title: str,
    n_values: int,
    unit: str = RMS,
) -> str:
    """Write `ara.json` and the curves.

    Args:
        output: the folder.
        head: first entries of the results.
        areas: by kind ("attack", "btr").
        indices: of the images in the test set, in the order of the distances.
        n_classes: K.
        title: above the curves.
        n_values: height·width·channels of an image.
        unit: of the distances, one of `UNITS`.

    Returns:
        A table of the areas, and what to know about them.
    """
    results = dict(head)
    for kind, (curve, distances, in_time) in areas.items():
        usable = distances.measured()
        results[kind] = {
            "ara": curve.area,
            "ara_at_least": curve.at_least,
            "ara_interval": area_interval(distances.distances, n_classes),
            "n_classes": n_classes,
            "n_images": len(indices),
            "n_misclassified_at_start": int((usable & (distances.distances == 0)).sum()),
            "n_never_crossed": curve.n_uncrossed,
            "n_not_finite": curve.n_left_out,
            "n_late": int((usable & ~in_time).sum()),
            "indices": indices,
            "distances": distances.distances,
            "first_ok": distances.first_ok,
            "crossed": distances.crossed,
            "finite": distances.finite,
            "valid": usable & in_time,
        }
    write_json(output / RESULTS_FILE, results)
    curves = {kind: area.curve for kind, area in areas.items()}
    write_ara_curve(output / CURVE_FILE, curves, title, n_classes, n_values, unit)
    return _table(results, curves, output, unit)


def _table(results: Mapping[str, Any], curves: Mapping[str, RobustnessCurve], output: Path, unit: str) -> str:
    rows = [
        (
            _NAMES[kind],
            area_in_words(curve, unit),
            _interval_in_words(results[kind]["ara_interval"], unit),
            results[kind]["n_images"],
            results[kind]["n_misclassified_at_start"],
            results[kind]["n_late"],
            results[kind]["n_never_crossed"],
            results[kind]["n_not_finite"],
        )
        for kind, curve in curves.items()
    ]
    name = "ARA" if unit == RMS else f"ARA, {unit}"
    header = ("until", name, "95% interval", "images", "at start", "late", "never crossed", "left out")
    lines = [table(header, rows)]
    if any(math.isinf(curve.area) for curve in curves.values()):
        lines.append(
            "≥: more than a share of 1/K of the images was never crossed, so the area has no end and is given up to "
            "the largest distance found (more --steps, or another --attack, may cross them)"
        )
    if any(curve.n_left_out for curve in curves.values()):
        lines.append("left out: images with infinite or NaN logits on the way, which have no distance")
    if unit != RMS:
        lines.append(f"distances and areas: {UNITS[unit]}; the curve ends where at most 1/(2K) of the images are left")
    lines.append(f"at most {results['gradient_evaluations']} gradient evaluations an image, for each area")
    lines.append(f"results: {output / RESULTS_FILE}, curve: {output / CURVE_FILE}")
    return "\n".join(lines)


def _interval_in_words(interval: tuple[float, float], unit: str) -> str:
    if any(map(math.isnan, interval)):
        return ""
    return " to ".join("∞" if math.isinf(end) else area_text(end, unit) for end in interval)
