"""The picture of scores of explanations: a panel for each metric, a line for each method, a colour for each network."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advx_jax.reports.figures import COLOURS, draw_grid, missing_letters_allowed, save_figure

# Told apart by their markers in grey.
_STYLES = tuple(zip((COLOURS[place] for place in (0, 1, 2, 7, 3, 5, 4)), "os^DvPX", strict=True))
_COLUMNS = 3
# Inches.
_WIDTH, _TITLE, _LINE, _GAP = 4.2, 0.7, 0.1, 0.14


def write_faithfulness_figure(paths: Sequence[Path], everything: Sequence[Mapping[str, Any]]) -> None:
    """Draw means and their intervals, whole or not at all.

    Args:
        paths: of the picture, in the formats that their endings name.
        everything: results, as in `faithfulness.json`; the first tell which metrics and methods, and in which order.
    """
    # Takes most of a second, and commands that draw nothing need not wait for it.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    first = everything[0]
    metrics, methods = list(first["metrics"]), list(first["settings"]["methods"])
    n_columns = min(_COLUMNS, len(metrics))
    n_rows = math.ceil(len(metrics) / n_columns)
    height = _TITLE + len(methods) * (_GAP + _LINE * len(everything))
    # Text of an SVG is to be text, and equal results are to give equal files.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "advx_jax"}), missing_letters_allowed():
        figure = Figure(figsize=(n_columns * _WIDTH, n_rows * height + 0.5), dpi=120, layout="constrained")
        grid = figure.subplots(n_rows, n_columns, squeeze=False)
        for axes in grid.flat[len(metrics) :]:
            axes.set_axis_off()
        for axes, metric in zip(grid.flat, metrics, strict=False):
            _draw(axes, metric, methods, everything)
        for row in grid:
            for axes in row[1:]:
                axes.set_yticklabels([])
        if len(everything) > 1:
            handles, labels = grid[0, 0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
        settings = first["settings"]
        title = f"{settings['n_images']} test images" if len(everything) > 1 else _name(first)
        figure.suptitle(f"{title}: scores of explanations, means and 95% intervals", fontsize=11, parse_math=False)
        save_figure(figure, *paths)


def _name(results: Mapping[str, Any]) -> str:
    return f"{results['settings']['model']}, {results['settings']['n_images']} test images"


def _draw(axes: Any, metric: str, methods: Sequence[str], everything: Sequence[Mapping[str, Any]]) -> None:
    for place, results in enumerate(everything):
        found = results["metrics"].get(metric, {}).get("methods", {})
        shift = (place - (len(everything) - 1) / 2) * 0.7 / len(everything)
        lines = [
            (row + shift, one["low"], one["mean"], one["high"])
            for row, name in enumerate(methods)
            if (one := found.get(name))
            and None not in (one["low"], one["mean"], one["high"])
            and all(map(math.isfinite, (one["low"], one["mean"], one["high"])))
        ]
        colour, marker = _STYLES[place % len(_STYLES)]
        heights, low, mean, high = zip(*lines, strict=True) if lines else ((), (), (), ())
        axes.hlines(heights, low, high, color=colour, lw=1.2)
        axes.plot(mean, heights, marker, color=colour, ms=3.5, label=results["settings"]["model"])
    better = everything[0]["metrics"][metric]["higher_is_better"]
    axes.set_title(f"{metric}, {'higher' if better else 'lower'} is better", fontsize=9, parse_math=False)
    axes.set_yticks(range(len(methods)), methods, fontsize=8, parse_math=False)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=7)
    draw_grid(axes, "x")
    for line in range(1, len(methods)):
        axes.axhline(line - 0.5, color="#eeeeee", lw=0.7)
    for side in ("right", "top"):
        axes.spines[side].set_visible(False)
