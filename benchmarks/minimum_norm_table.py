"""Rebuild the tables and the figure of docs/minimum_norm.md from what `advx attackbench` measured.

    python -m benchmarks.minimum_norm_table

Reads prebuilt/measured/NETWORK/attackbench-NORM (`python -m benchmarks.measure_networks`). Nothing in it is typed
by hand.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from advx_jax.cli.commands import command, no_arguments
from advx_jax.analysis.optimality import global_optimality
from advx_jax.reports.attackbench import RESULTS_FILE
from advx_jax.reports.figures import draw_grid, line_style, missing_letters_allowed, save_figure
from advx_jax.reports.results_json import read_json
from benchmarks.measured import BENCHED, ROOT, files_of, read_manifest
from benchmarks.results_table import markdown, rewrite, with_tables

DOCUMENT = ROOT / "docs" / "minimum_norm.md"
PICTURE = ROOT / "benchmarks" / "pictures" / "minimum_norm.png"

Results = Mapping[str, Mapping[str, Any]]
"""By network."""


@command()
def main(arguments: list[str]) -> None:
    """Rebuild both."""
    no_arguments(arguments)
    networks = read_manifest()["networks"]
    rewrite(DOCUMENT, networks, with_its_tables)
    results = {norm: found(norm, networks) for norm in BENCHED}
    if any(results.values()):
        _draw(PICTURE, {norm: of_norm for norm, of_norm in results.items() if of_norm})
    print(table(networks))


def with_its_tables(text: str, networks: Mapping[str, Any]) -> str:
    """The document with the table of these networks."""
    return with_tables(text, networks, TABLES, "benchmarks.minimum_norm_table")


def found(norm: str, networks: Mapping[str, Any]) -> Results:
    """Results of the networks that have some."""
    files = {name: files_of(name).benches[norm] / RESULTS_FILE for name in networks}
    return {name: read_json(file) for name, file in files.items() if file.exists()}


def table(networks: Mapping[str, Any]) -> str:
    """Every attack's optimality in every norm: of each network, and the mean over them."""
    by_norm = {norm: found(norm, networks) for norm in BENCHED}
    names = [name for name in networks if any(name in results for results in by_norm.values())]
    rows: list[tuple[str, ...]] = []
    for norm, results in by_norm.items():
        counts = [str(len(results[name]["indices"])) if name in results else "" for name in names]
        rows += [(norm, "images", "", "", *counts)] if results else []
        of_norm = {
            name: {attack["name"]: attack for attack in (*one["attacks"], *one["elsewhere"])}
            for name, one in results.items()
        }
        attacks = dict.fromkeys(attack for of_network in of_norm.values() for attack in of_network)
        scores = [(attack, [of_norm.get(name, {}).get(attack) for name in names]) for attack in attacks]
        # An attack that some networks lack would be compared over others of them: it comes last, without a mean.
        scores.sort(key=lambda scored: (None not in scored[1], _mean(scored[1])), reverse=True)
        rows += [_row(norm, *scored) for scored in scores]
    return markdown(("norm", "attack", "passes", "optimality", *names), rows)


def _row(norm: str, attack: str, scores: list[Mapping[str, Any] | None]) -> tuple[str, ...]:
    passes = ", ".join(dict.fromkeys(str(score["passes"]) for score in scores if score and "passes" in score))
    return (
        norm,
        f"`{attack}`",
        passes,
        "" if None in scores else f"{_mean(scores):.4f}",
        *("" if score is None else _cell(score) for score in scores),
    )


def _mean(scores: list[Mapping[str, Any] | None]) -> float:
    return global_optimality([score["local_optimality"] for score in scores if score is not None])


def _cell(score: Mapping[str, Any]) -> str:
    near = score.get("passes_to_envelope")
    return f"{score['local_optimality']:.4f}" + ("" if near is None else f" ({near})")


TABLES: dict[str, Callable[[Any], str]] = {"optimality": table}


def _draw(path: Path, results: Mapping[str, Results]) -> None:
    """Optimality against passes: a row for each norm, a column for each network."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for of_norm in results.values() for name in of_norm))
    with missing_letters_allowed():
        figure = Figure(figsize=(4.6 * len(names), 2.7 * len(results)), dpi=120, layout="constrained")
        grid = figure.subplots(len(results), len(names), squeeze=False, sharex=True)
        for row, (norm, of_norm) in zip(grid, results.items(), strict=True):
            for axes, name in zip(row, names, strict=True):
                _panel(axes, f"{norm}, {name}", of_norm.get(name))
            row[0].set_ylabel("local optimality")
        for axes in grid[-1]:
            axes.set_xlabel("passes through the network, an image")
        save_figure(figure, path)


def _panel(axes: Any, title: str, results: Mapping[str, Any] | None) -> None:
    if results is None:
        axes.set_axis_off()
        return
    for place, attack in enumerate(results["attacks"]):
        style = line_style(place)
        axes.plot(attack["looks"], attack["optimality_at_looks"], **style, lw=1.4, label=attack["name"])
    axes.set_xscale("log")
    axes.set_ylim(0.7, 1.005)
    axes.set_title(f"{title}: {len(results['indices'])} test images", fontsize=9, parse_math=False)
    axes.legend(frameon=False, fontsize=7)
    draw_grid(axes)


if __name__ == "__main__":
    main()
