"""Minimum-norm attacks scored as AttackBench scores them: JSON, curves, tables."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from advx_jax.analysis.optimality import (
    Distances,
    area_under_curve,
    global_optimality,
    local_optimality,
    lower_envelope,
    passes_to_envelope,
)
from advx_jax.attacks.passes import Passes
from advx_jax.errors import UserError
from advx_jax.reports.console import table
from advx_jax.reports.figures import draw_grid, line_style, save_figure
from advx_jax.reports.known_distances import KnownDistances, read_known
from advx_jax.reports.results_json import write_json
from advx_jax.reports.units import UNITS

RESULTS_FILE = "attackbench.json"
CURVES_FILE = "attackbench.png"


class ScoredAttack(NamedTuple):
    """What an attack found.

    Attributes:
        name: for people.
        settings: of the attack as it ran.
        passes: through the model, for each image.
        looks: passes made at each look.
        distances: of each image at each look; infinite where there is none.
        n_not_finite: images with infinite or NaN logits on the way.
        seconds: that it took in all.
    """

    name: str
    settings: Mapping[str, Any]
    passes: Passes
    looks: Sequence[int]
    distances: Float[np.ndarray, "n looks"]
    n_not_finite: int
    seconds: float


def write_scores(
    output: Path,
    results: dict[str, Any],
    scored: Sequence[ScoredAttack],
    known: Sequence[KnownDistances],
    norm: str,
    title: str,
) -> str:
    """Write `attackbench.json` and the curves.

    Args:
        output: the folder.
        results: a head with `settings` and `indices`.
        scored: the attacks.
        known: distances from elsewhere, which take part in the envelope; one called like an attack that was run is
            told apart from it.
        norm: of all distances.
        title: above the curves.

    Returns:
        A table, the best first.
    """
    others: dict[str, Distances] = {}
    own = {attack.name for attack in scored}
    for distances in known:
        for found_as, values in distances.of(results["indices"]).items():
            name = f"{found_as} (elsewhere)" if found_as in own else found_as
            others[name] = np.minimum(values, others.get(name, np.inf))
    final = {attack.name: attack.distances[:, -1] for attack in scored}
    envelope = lower_envelope([*final.values(), *others.values()])
    end = float(envelope[np.isfinite(envelope)].max(initial=0.0))
    attacks = [_scores(attack, envelope, end) for attack in scored]
    elsewhere = [{"name": name} | _found(values, envelope, end) for name, values in others.items()]
    results |= {
        "unit": UNITS[norm],
        "accuracy": float((envelope > 0).mean()),
        "envelope": {"distances": envelope, "end": end, "area": area_under_curve(envelope, end)},
        "attacks": attacks,
        "elsewhere": elsewhere,
    }
    write_json(output / RESULTS_FILE, results)
    _draw(output / CURVES_FILE, final | others, envelope, end or 1.0, attacks, f"distance, {UNITS[norm]}", title)
    rows = [
        (
            attack["name"],
            _shown(attack["local_optimality"]),
            attack.get("passes", "-"),
            "-" if attack.get("passes_to_envelope") is None else attack["passes_to_envelope"],
            f"{attack['median_distance']:.5g}",
            attack["n_never_crossed"],
            f"{attack['seconds']:.1f}" if "seconds" in attack else "-",
        )
        for attack in sorted([*attacks, *elsewhere], key=lambda attack: _rank(attack["local_optimality"]))
    ]
    header = ("attack", "optimality", "passes", "to 99%", "median", "never crossed", "seconds")
    return table(header, rows)


def across(folders: Sequence[Path]) -> str:
    """A table of attacks and their optimality on several networks, with the mean over them (global optimality).

    Args:
        folders: with `attackbench.json` of one norm.

    Raises:
        UserError: a folder has none, or their norms differ.
    """
    found = [read_known(folder / RESULTS_FILE) for folder in folders]
    norms = dict.fromkeys(str(results.settings["norm"]) for results in found)
    if len(norms) > 1:
        raise UserError(f"expected results in one norm, got {', '.join(norms)}")
    names = dict.fromkeys(name for results in found for name in results.optimality)
    local = {name: [results.optimality.get(name, math.nan) for results in found] for name in names}
    ranked = sorted(names, key=lambda name: _rank(global_optimality(local[name])))
    rows = [(name, *map(_shown, (global_optimality(local[name]), *local[name]))) for name in ranked]
    networks = [str(results.settings.get("model", folder)) for results, folder in zip(found, folders, strict=True)]
    header = ("attack", "global optimality", *networks)
    return f"{next(iter(norms))}\n" + table(header, rows)


def _scores(attack: ScoredAttack, envelope: Distances, end: float) -> dict[str, Any]:
    return {
        "name": attack.name,
        **_found(attack.distances[:, -1], envelope, end),
        "passes": attack.passes.total,
        "forward": attack.passes.forward,
        "backward": attack.passes.backward,
        "passes_to_envelope": passes_to_envelope(attack.looks, attack.distances, envelope),
        "looks": list(attack.looks),
        "optimality_at_looks": [local_optimality(column, envelope) for column in attack.distances.T],
        "n_not_finite": attack.n_not_finite,
        "seconds": attack.seconds,
        "attack_settings": dict(attack.settings),
    }


def _found(distances: Distances, envelope: Distances, end: float) -> dict[str, Any]:
    crossed = distances[np.isfinite(distances)]
    return {
        "local_optimality": local_optimality(distances, envelope),
        "area": area_under_curve(distances, end),
        "median_distance": float(np.median(distances)) if len(crossed) * 2 > len(distances) else math.inf,
        "n_never_crossed": len(distances) - len(crossed),
        "distances": distances,
    }


def _draw(
    path: Path,
    distances: Mapping[str, Distances],
    envelope: Distances,
    end: float,
    attacks: Sequence[Mapping[str, Any]],
    label: str,
    title: str,
) -> None:
    """Accuracy against distance, by attack and for the envelope; and optimality against passes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = {name: line_style(place) for place, name in enumerate(distances)}
    for name, values in distances.items():
        left.plot(*_steps(values, end), **styles[name], lw=1.4, label=name)
    left.plot(*_steps(envelope, end), color="black", lw=0.8, label="smallest of all")
    left.set_xlim(0, end)
    left.set_ylim(0, 1)
    left.set_xlabel(label)
    left.set_ylabel("accuracy")
    for attack in attacks:
        right.plot(attack["looks"], attack["optimality_at_looks"], marker=".", ms=4, lw=1.4, **styles[attack["name"]])
    right.set_xscale("log")
    right.set_xlabel("passes through the network, forward and backward, an image")
    right.set_ylabel("local optimality")
    for axes in (left, right):
        draw_grid(axes)
    left.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11, parse_math=False)
    save_figure(figure, path)


def _steps(distances: Distances, end: float) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Corners of the curve of accuracy against distance."""
    crossed = np.sort(distances[np.isfinite(distances)])
    left = 1 - np.arange(len(crossed) + 1) / max(len(distances), 1)
    sizes = np.concatenate([[0.0], np.repeat(crossed, 2), [end]])
    return sizes, np.repeat(left, 2)


def _rank(optimality: float) -> float:
    """Sorted by it, the largest optimality comes first, and what has none last."""
    return math.inf if math.isnan(optimality) else -optimality


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
