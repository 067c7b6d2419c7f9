"""Rebuild the tables and the figure of docs/faithfulness.md from what `advx faithfulness` measured.

    python -m benchmarks.faithfulness_table

Reads prebuilt/measured/NETWORK/faithfulness (all methods, metrics of what they point at), faithfulness-stability (their
stability and sanity, on fewer images), faithfulness-randomisation (of networks that lose what they have learned) and
faithfulness-norms (adversarial explanations in several norms). Nothing in the tables is typed by hand.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from advx_jax.cli.commands import command, no_arguments
from advx_jax.reports.faithfulness_figure import write_faithfulness_figure
from advx_jax.reports.faithfulness_files import CONTROL, RESULTS_FILE, read_faithfulness
from benchmarks.measured import MEASURED, ROOT, read_manifest
from benchmarks.results_table import markdown, rewrite, with_tables

DOCUMENT = ROOT / "docs" / "faithfulness.md"
PICTURE = ROOT / "benchmarks" / "pictures" / "faithfulness.png"

# Spans decades, and only one of the methods promises it.
_NOT_DRAWN = ("completeness",)
_FIELDS = {
    **{"valid": "valid", "confidence": "confidence", "gained": "gained", "l1": "L1", "l2": "L2", "linf": "L∞"},
    **{"rms": "RMS", "sparsity": "unchanged"},
}
_NORMS = {"adversarial": "L2", "adversarial_linf": "L∞", "adversarial_l1.5": "L1.5"}

Results = Mapping[str, Mapping[str, Any]]
"""By network."""


@command()
def main(arguments: list[str]) -> None:
    """Rebuild both."""
    no_arguments(arguments)
    networks = read_manifest()["networks"]
    rewrite(DOCUMENT, networks, with_its_tables)
    everything = list(found("faithfulness", networks).values())
    if everything:
        drawn = {name: one for name, one in everything[0]["metrics"].items() if name not in _NOT_DRAWN}
        write_faithfulness_figure([PICTURE], [{**everything[0], "metrics": drawn}, *everything[1:]])
    print(*(table(networks) for table in TABLES.values()), sep="\n\n")


def with_its_tables(text: str, networks: Mapping[str, Any]) -> str:
    """The document with the tables of these networks."""
    return with_tables(text, networks, TABLES, "benchmarks.faithfulness_table")


def found(folder: str, networks: Mapping[str, Any]) -> Results:
    """Results of the networks that have some."""
    files = {name: MEASURED / name / folder / RESULTS_FILE for name in networks}
    return {name: read_faithfulness(Path(file)) for name, file in files.items() if file.exists()}


def best_table(networks: Mapping[str, Any]) -> str:
    """The best method of each network by each metric, with what a random attribution has."""
    results = found("faithfulness", networks)
    metrics = next(iter(results.values()))["metrics"] if results else {}
    rows: list[tuple[str, ...]] = [("images", *(str(one["settings"]["n_images"]) for one in results.values()))]
    for metric, one in metrics.items():
        cells = [_best(of_network["metrics"][metric]) for of_network in results.values()]
        rows.append((f"`{metric}` {_arrow(one)}", *cells))
    return markdown(("metric", *results), rows)


def _best(metric: Mapping[str, Any]) -> str:
    best = metric["best"]
    tied = f", {len(metric['tied'])} tied" if metric["tied"] else ""
    return f"{best} {_number(metric['methods'][best]['mean'])}{tied} ({_number(metric['methods'][CONTROL]['mean'])})"


def scores_table(networks: Mapping[str, Any]) -> str:
    """Faithfulness correlation and ROAD of every method on every network, with intervals."""
    return _by_method("faithfulness", networks, ("faithfulness_correlation", "road"))


def stability_table(networks: Mapping[str, Any]) -> str:
    """Sensitivity and the random-logit test of every method on every network."""
    return _by_method("faithfulness-stability", networks, ("max_sensitivity", "random_logit"))


def randomisation_table(networks: Mapping[str, Any]) -> str:
    """How alike attributions stay to what they were while a network is randomised from its head on."""
    return _by_method("faithfulness-randomisation", networks, ("parameter_randomisation",))


def _by_method(folder: str, networks: Mapping[str, Any], metrics: tuple[str, ...]) -> str:
    results = found(folder, networks)
    first = next(iter(results.values()))["metrics"] if results else {}
    rows = [
        (f"`{metric}` {_arrow(first[metric])}", method, *(_cell(one, metric, method) for one in results.values()))
        for metric in (metrics if results else ())
        for method in first[metric]["methods"]
    ]
    rows = [("images", "", *(str(one["settings"]["n_images"]) for one in results.values())), *rows]
    return markdown(("metric", "method", *results), rows)


def _cell(results: Mapping[str, Any], metric: str, method: str) -> str:
    one = results["metrics"][metric]["methods"][method]
    text = f"{_number(one['mean'])} ± {_number((one['high'] - one['low']) / 2)}"
    return f"**{text}**" if results["metrics"][metric]["best"] == method else text


def counterfactual_table(networks: Mapping[str, Any]) -> str:
    """Validity and closeness of adversarial explanations towards the likeliest other class."""
    rows = []
    for name, results in found("faithfulness-norms", networks).items():
        for method, one in results["counterfactuals"].items():
            cells = [_number(one[field]["mean"]) for field in _FIELDS]
            rows.append((name, _NORMS[method], str(results["settings"]["n_images"]), *cells))
    return markdown(("network", "norm", "images", *_FIELDS.values()), rows)


TABLES: dict[str, Callable[[Any], str]] = {
    "best methods": best_table,
    "every method": scores_table,
    "stability": stability_table,
    "randomisation": randomisation_table,
    "counterfactuals": counterfactual_table,
}


def _arrow(metric: Mapping[str, Any]) -> str:
    return "↑" if metric["higher_is_better"] else "↓"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 0.0995 else f"{value:.3f}"


if __name__ == "__main__":
    main()
