"""Curves of accuracy-robustness areas of several networks, attacks or norms in one figure."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from advx_jax.analysis.robustness_area import Distances, RobustnessCurve, robustness_curve
from advx_jax.errors import UserError
from advx_jax.reports.ara_curve import area_in_words, corners, right_end
from advx_jax.reports.ara_files import RESULTS_FILE
from advx_jax.reports.console import table
from advx_jax.reports.figures import draw_grid, line_style, save_figure
from advx_jax.reports.results_json import read_json
from advx_jax.reports.units import RMS, UNITS

COMPARISON_FILE = "ara-compared.png"
_KINDS = {"attack": "until misclassified", "btr": "until no better than random"}


class _Measured(NamedTuple):
    """What a folder of results has.

    Attributes:
        label: network and attack.
        unit: of the distances.
        n_images: how many there are.
        n_classes: of the network.
        curves: by kind.
    """

    label: str
    unit: str
    n_images: int
    n_classes: int
    curves: dict[str, RobustnessCurve]


def compare_areas(folders: Sequence[Path], output: Path) -> str:
    """Draw the curves of finished results, a row of panels for each unit, and tell the areas.

    Args:
        folders: with an `ara.json` each.
        output: folder for the picture.

    Raises:
        UserError: a folder has no results, or others.
    """
    from matplotlib.figure import Figure

    measured = [_read(folder / RESULTS_FILE) for folder in folders]
    units = list(dict.fromkeys(results.unit for results in measured))
    figure = Figure(figsize=(10, 3.6 * len(units)), dpi=150, layout="constrained")
    panels = figure.subplots(len(units), len(_KINDS), squeeze=False)
    for row, unit in zip(panels, units, strict=True):
        there = [results for results in measured if results.unit == unit]
        for axes, (kind, words) in zip(row, _KINDS.items(), strict=True):
            # As far as the last of them goes; what lies beyond adds nothing to an area.
            end = max(right_end({kind: results.curves[kind]}, 1 / results.n_classes) for results in there)
            for place, results in enumerate(there):
                curve = results.curves[kind]
                label = f"{results.label}: {area_in_words(curve, unit)}"
                axes.plot(*corners(curve, end), drawstyle="steps-pre", lw=1.6, label=label, **line_style(place))
            axes.set_xlim(0, end)
            axes.set_ylim(0, 1)
            axes.set_xlabel(f"perturbation allowed, {UNITS[unit]}")
            axes.set_ylabel("share of images")
            axes.set_title(words, fontsize=10)
            draw_grid(axes)
            axes.legend(frameon=False, fontsize=8, title="area", title_fontsize=8)
    save_figure(figure, output / COMPARISON_FILE)
    rows = [
        (r.label, r.unit, r.n_images, *(area_in_words(r.curves[kind], r.unit) for kind in _KINDS)) for r in measured
    ]
    text = table(("network, attack", "unit", "images", "ARA, attack", "ARA, BTR"), rows)
    return f"{text}\ncurves: {output / COMPARISON_FILE}"


def _read(path: Path) -> _Measured:
    results = read_json(path)
    try:
        settings = results["settings"]
        label = f"{settings['model']}, {settings.get('attack', 'published')}"
        curves, n_classes = {}, int(results["attack"]["n_classes"])
        for kind in _KINDS:
            found = results[kind]
            distances = [math.nan if value is None else float(value) for value in found["distances"]]
            fields = (np.array(found[name]) for name in ("first_ok", "crossed", "finite"))
            curves[kind] = robustness_curve(Distances.found(np.array(distances), *fields).distances, n_classes)
        unit = str(settings.get("distance_norm", RMS))
        if unit not in UNITS:
            raise ValueError(f"distances in {unit}")
        return _Measured(label, unit, len(results["attack"]["distances"]), n_classes, curves)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"expected results of ara in {path}, got others ({type(error).__name__}: {error})") from error
