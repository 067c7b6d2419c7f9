"""Scores of explanations as JSON, tables and a figure."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advx_jax.analysis.faithfulness import bootstrap_interval
from advx_jax.errors import UserError
from advx_jax.reports.console import table
from advx_jax.reports.faithfulness_figure import write_faithfulness_figure
from advx_jax.reports.results_json import read_json, write_json

RESULTS_FILE = "faithfulness.json"
FIGURE_FILES = ("faithfulness.png", "faithfulness.svg")
CONTROL = "random"
"""The method that is never the best: others are compared with it."""

# Of an explanation towards another class, what the table shows; the file has all.
_SHOWN = ("valid", "confidence", "gained", "l1", "l2", "linf", "rms", "sparsity")
_METRICS_A_TABLE = 4
_BEST, _TIED = "*", "~"


def write_faithfulness(
    output: Path,
    head: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    labels: Sequence[int],
    higher_is_better: Mapping[str, bool],
    seconds: Mapping[str, float],
    beside: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Write `faithfulness.json` and the figure.

    Args:
        output: the folder.
        head: first entries of the results, with the source of the data and the cost of each step.
        records: of the images, in their order.
        labels: their real classes.
        higher_is_better: by metric.
        seconds: that each method and its scoring took.
        beside: results of earlier calls that the figure is to show, too.

    Returns:
        Tables, and what to know about them.
    """
    methods = list(head["settings"]["methods"])
    results = {
        **head,
        "accuracy": float(np.mean([record["predicted"] == y for record, y in zip(records, labels, strict=True)])),
        "seconds": dict(seconds),
        "metrics": {
            metric: _compared(
                {name: _column([record["methods"][name][metric] for record in records]) for name in methods}, better
            )
            for metric, better in higher_is_better.items()
        },
        "counterfactuals": {
            name: {
                field: _interval(_column([record["counterfactuals"][name][field] for record in records]))
                for field in _SHOWN
            }
            for name in records[0]["counterfactuals"]
        },
    }
    write_json(output / RESULTS_FILE, results)
    paths = [output / name for name in FIGURE_FILES]
    write_faithfulness_figure(paths, [results, *beside])
    return "\n".join(
        [
            _text(results, methods),
            *_beside_text(results, beside),
            f"results: {output / RESULTS_FILE}, figure: {paths[0]}",
        ]
    )


def read_faithfulness(path: Path) -> dict[str, Any]:
    """Read results of an earlier call.

    Args:
        path: the folder, or the file.

    Raises:
        UserError: there are none.
    """
    results = read_json(path / RESULTS_FILE if path.is_dir() else path, 1)
    if results.get("command") != "faithfulness" or not isinstance(results.get("metrics"), dict):
        raise UserError(f"expected results of faithfulness in {path}, got results of {results.get('command')}")
    try:
        _check_what_is_shown(results)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"expected results of faithfulness in {path}, got others ({type(error).__name__}: {error})"
        ) from error
    return results


def _check_what_is_shown(results: Mapping[str, Any]) -> None:
    """Raise where something is missing, or of another kind, of what tables and figures take from earlier results."""
    if not isinstance(results["settings"]["model"], str) or type(results["settings"]["n_images"]) is not int:
        raise ValueError("a network or a number of images that is none")
    for metric in results["metrics"].values():
        best, methods = metric["best"], dict(metric["methods"])
        for one in methods.values():
            if not all(one[name] is None or isinstance(one[name], int | float) for name in ("low", "mean", "high")):
                raise ValueError("a mean that is no number")
        if best is not None and best not in methods:
            raise ValueError("a best method that is none of them")


def _column(values: Sequence[Any]) -> np.ndarray:
    return np.array([math.nan if value is None else float(value) for value in values])


def _interval(values: np.ndarray) -> dict[str, Any]:
    known = values[~np.isnan(values)]
    return bootstrap_interval(values)._asdict() | {"median": float(np.median(known)) if len(known) else math.nan}


def _compared(columns: Mapping[str, np.ndarray], higher_is_better: bool) -> dict[str, Any]:
    """Means and their intervals by method, which is best, and which these images do not tell apart from it."""
    found = {name: _interval(values) for name, values in columns.items()}
    sign = 1 if higher_is_better else -1
    means = {name: sign * one["mean"] for name, one in found.items() if name != CONTROL and one["n"]}
    best = max(means, key=means.__getitem__, default=None)
    tied = [name for name in means if best not in (None, name) and not _differ(columns[name], columns[str(best)])]
    return {"higher_is_better": higher_is_better, "best": best, "tied": tied, "methods": found}


def _differ(some: np.ndarray, others: np.ndarray) -> bool:
    """Whether the mean difference of two methods on the same images is surely not 0."""
    difference = bootstrap_interval(some - others)
    return difference.n > 0 and not difference.low <= 0 <= difference.high


def _text(results: Mapping[str, Any], methods: Sequence[str]) -> str:
    settings, metrics = results["settings"], results["metrics"]
    explained = "the network's top class" if settings["target"] == "predicted" else "the real class"
    lines = [
        f"{settings['model']}: explanations of {explained} of the first {settings['n_images']} test images "
        f"(accuracy {results['accuracy']:.4f}), seed {settings['seed']}",
        f"data: {results['data']}",
    ]
    names = list(metrics)
    for begin in range(0, len(names), _METRICS_A_TABLE):
        part = names[begin : begin + _METRICS_A_TABLE]
        header = ["method", *(f"{name} {'↑' if metrics[name]['higher_is_better'] else '↓'}" for name in part)]
        rows = [[name, *(_cell(metrics[metric], name) for metric in part)] for name in methods]
        lines += ["", table(header, rows)]
    lines += [
        "",
        "means over images and their 95% intervals (bootstrap). ↓ lower is better, ↑ higher is; "
        f"{_BEST} best, {_TIED} not told apart from it by these images",
    ]
    if any(one["n"] < settings["n_images"] for metric in metrics.values() for one in metric["methods"].values()):
        lines.append(
            "where a number is not defined, the image is left out of that mean: the results have how many counted"
        )
    if results["counterfactuals"]:
        rows = [
            [name, *(_number(one[field]["mean"]) for field in _SHOWN)]
            for name, one in results["counterfactuals"].items()
        ]
        lines += ["", "as counterfactuals, towards the likeliest other class:", table(("method", *_SHOWN), rows)]
    return "\n".join(lines)


def _beside_text(results: Mapping[str, Any], beside: Sequence[Mapping[str, Any]]) -> list[str]:
    """The best method of each network by each metric."""
    if not beside:
        return []
    everything = [results, *beside]
    rows = [
        [
            metric,
            *(
                f"{found['best']} {_number(found['methods'][found['best']]['mean'])}" if found and found["best"] else ""
                for found in (one["metrics"].get(metric) for one in everything)
            ),
        ]
        for metric in results["metrics"]
    ]
    return ["", "best methods:", table(("metric", *(one["settings"]["model"] for one in everything)), rows), ""]


def _cell(metric: Mapping[str, Any], method: str) -> str:
    found = metric["methods"][method]
    if not found["n"]:
        return "–"
    mark = _BEST if method == metric["best"] else _TIED if method in metric["tied"] else ""
    return f"{_number(found['mean'])} [{_number(found['low'])}, {_number(found['high'])}]{mark}"


def _number(value: float | None) -> str:
    """A number of results, in which JSON has null for what is not finite."""
    if value is None:
        return "–"
    return f"{value:.3g}" if abs(value) >= 1000 or 0 < abs(value) < 0.0095 else f"{value:.3f}"
