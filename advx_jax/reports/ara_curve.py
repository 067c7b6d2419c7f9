"""The picture of an accuracy-robustness area: accuracy against the size of the perturbation."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from advx_jax.analysis.robustness_area import RobustnessCurve
from advx_jax.errors import UserError
from advx_jax.reports.figures import COLOURS, draw_grid, save_figure
from advx_jax.reports.units import RMS, UNITS, area_text

_LABELS = {"attack": "misclassified (attack)", "btr": "no better than random (BTR)"}
# Told apart in grey, too.
_STYLES = tuple(zip((*COLOURS[:3], COLOURS[-1]), ("-", "--", "-.", ":"), strict=True))


def write_ara_curve(
    path: Path,
    curves: Mapping[str, RobustnessCurve],
    title: str,
    n_classes: int,
    n_values: int,
    unit: str = RMS,
) -> None:
    """Draw curves and the areas under them as a PNG, whole or not at all.

    Curves are drawn as the steps that they are, so that the shaded area is the ARA. The axis ends
    where the last curve has fallen to half of chance level; what lies beyond adds nothing to an ARA. A curve
    that does not fall so far goes on to the end of the axis, at the share that was never crossed.

    Args:
        path: the PNG file.
        curves: by kind ("attack", "btr"), in the order of the legend.
        title: above the picture; taken literally.
        n_classes: K; chance level is 1/K.
        n_values: height·width·channels of an image, by which an RMS is read as L2 = RMS·√n_values.
        unit: of the perturbations, one of `UNITS`.

    Raises:
        UserError: there is no curve, or one has as many accuracies as it has not perturbations.
    """
    # Imported here because it takes most of a second, and most commands draw nothing. Figures are
    # used directly: pyplot would keep global state and choose a window system.
    from matplotlib.figure import Figure

    if not curves:
        raise UserError("expected at least one curve to draw, got none")
    for kind, curve in curves.items():
        if len(curve.perturbations) != len(curve.accuracies) or not len(curve.accuracies):
            raise UserError(
                f"expected as many accuracies as perturbations for {kind!r}, at least one, "
                f"got {len(curve.accuracies)} and {len(curve.perturbations)}"
            )
    chance, root = 1 / n_classes, math.sqrt(n_values)
    end = right_end(curves, chance)
    figure = Figure(figsize=(7.2, 4.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for place, (kind, curve) in enumerate(curves.items()):
        colour, line = _STYLES[place % len(_STYLES)]
        sizes, accuracies = corners(curve, end)
        axes.fill_between(sizes, chance, np.maximum(accuracies, chance), step="pre", color=colour, alpha=0.13, lw=0)
        label = f"until {_LABELS.get(kind, kind)}: ARA {area_in_words(curve, unit)}"
        axes.plot(sizes, accuracies, color=colour, linestyle=line, drawstyle="steps-pre", lw=1.8, label=label)
    axes.axhline(chance, color="#777777", lw=1, linestyle=(0, (1, 2)), label=f"chance, 1/{n_classes}")
    axes.set_xlim(0, end)
    axes.set_ylim(0, 1)
    axes.set_xlabel(f"perturbation allowed, {UNITS[unit]}")
    axes.set_ylabel("accuracy (BTR: share better than random)")
    draw_grid(axes)
    axes.spines["right"].set_visible(False)
    if unit == RMS:
        as_l2 = partial(np.multiply, root), partial(np.multiply, 1 / root)
        axes.secondary_xaxis("top", functions=as_l2).set_xlabel("the same as L2 norm")
    axes.legend(frameon=False)
    figure.suptitle(title, fontsize=11, parse_math=False)
    save_figure(figure, path)


def area_in_words(curve: RobustnessCurve, unit: str = RMS) -> str:
    """The area to four digits; a lower bound where so many images were never crossed that it has no end."""
    return f"≥ {area_text(curve.at_least, unit)}" if math.isinf(curve.area) else area_text(curve.area, unit)


def corners(curve: RobustnessCurve, end: float) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Perturbations and accuracies to draw as steps, up to the end of the axis at least."""
    sizes = np.concatenate([[0.0], curve.perturbations])
    accuracies = np.concatenate([curve.accuracies[:1], curve.accuracies])
    if accuracies[-1] > 0:
        return np.append(sizes, max(end, sizes[-1])), np.append(accuracies, accuracies[-1])
    return sizes, accuracies


def right_end(curves: Mapping[str, RobustnessCurve], chance: float) -> float:
    """The perturbation at which all curves are down to half of chance level."""
    ends = [0.0]
    for curve in curves.values():
        low = np.flatnonzero(curve.accuracies <= chance / 2)
        ends.append(float(curve.perturbations[low[0] if len(low) else -1]))
    # Where every image is misclassified to begin with there is nothing but the axis to show.
    return max(ends) or 0.01
