"""Rebuild the tables of results in the documents, the picture and the manifest's figures from the measurements.

    python -m benchmarks.results_table

Reads what `evaluate`, `ara` and `explain` wrote into prebuilt/measured (`python -m benchmarks.measure_networks`).
Nothing in the tables is typed by hand.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from advx_jax.cli.commands import command, no_arguments
from advx_jax.errors import UserError
from advx_jax.files import atomic_write
from benchmarks.measured import BALLS, ROOT, epochs_of, measurements, read_manifest, write_manifest
from benchmarks.results_picture import PICTURE, write_results_picture

DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "results.md")
BEGIN = "<!-- {}: python -m {} -->"
END = "<!-- end of {} -->"

_STRONGER_HEADER = (
    "network",
    "attack ARA, `best`",
    "BTR ARA, `best`",
    "images",
    "distances, times the published attack's (attack, BTR)",
    "images of both",
    *(f"accuracy → under AutoAttack, {ball.label}" for ball in BALLS),
    "images",
)

_HEADER = ("network", "trained with", "epochs", "train loss", "final ψ", "accuracy", "attack ARA", "BTR ARA", "images")


@command()
def main(arguments: list[str]) -> None:
    """Rebuild all three."""
    no_arguments(arguments)
    content = read_manifest()
    for name, entry in content["networks"].items():
        if found := measurements(name):
            entry["measured"] = found
    write_manifest(content)
    for document in DOCUMENTS:
        rewrite(document, content["networks"], with_tables)
    write_results_picture(PICTURE, list(content["networks"]))
    print(*(table(content["networks"]) for table in TABLES.values()), sep="\n\n")


def rewrite(document: Path, networks: Mapping[str, Any], with_its_tables: Callable[[str, Any], str]) -> None:
    """Put the tables of these networks into a document."""
    text = with_its_tables(document.read_text(encoding="utf-8"), networks)
    with atomic_write(document) as temporary:
        temporary.write_text(text, encoding="utf-8")


def with_tables(
    text: str,
    networks: Mapping[str, Mapping[str, Any]],
    tables: Mapping[str, Callable[[Any], str]] | None = None,
    module: str = "benchmarks.results_table",
) -> str:
    """A document with the tables of these networks in place of those that it has.

    Args:
        text: of the document.
        networks: of the manifest.
        tables: what makes each table, by its name in the document; those of the results if None.
        module: that the document says its tables are made by.

    Raises:
        UserError: the document does not say where a table is.
    """
    tables = TABLES if tables is None else tables
    found = [name for name in tables if BEGIN.format(name, module) in text]
    if not found:
        raise UserError(f"expected a line such as {BEGIN.format('results', module)} in the document, got none")
    for name in found:
        begin, end = BEGIN.format(name, module), END.format(name)
        before, _, rest = text.partition(begin)
        _, ended, after = rest.partition(end)
        if not ended:
            raise UserError(f"expected the line {end} after {begin}, got none")
        text = f"{before}{begin}\n{tables[name](networks)}\n{end}{after}"
    return text


def results_table(networks: Mapping[str, Mapping[str, Any]]) -> str:
    """All networks of the manifest as a Markdown table; published figures stand in brackets."""
    return markdown(_HEADER, [_row(networks, name) for name in networks])


def stronger_table(networks: Mapping[str, Mapping[str, Any]]) -> str:
    """What stronger attacks than the published one leave of the networks."""
    rows = [_stronger_row(name, entry.get("measured", {})) for name, entry in networks.items()]
    return markdown(_STRONGER_HEADER, rows)


TABLES = {"results": results_table, "stronger attacks": stronger_table}


def markdown(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ("---",) * len(header), *rows))


def _stronger_row(name: str, measured: Mapping[str, Any]) -> tuple[str, ...]:
    areas = [_with_interval(measured, field) for field in ("best_attack_ara", "best_btr_ara")]
    compared = measured.get("best_over_published", {}).values()
    under = measured.get("autoattack", {})
    left = [
        f"{under[ball.label]['accuracy']:.3f} → {under[ball.label]['robust_accuracy']:.3f}"
        if ball.label in under
        else ""
        for ball in BALLS
    ]
    return (
        name,
        *areas,
        str(measured.get("n_best_ara_images", "")),
        ", ".join(f"{found['ratio']:.2f}" for found in compared),
        _counts(compared),
        *left,
        _counts(under.values()),
    )


def _with_interval(measured: Mapping[str, Any], field: str) -> str:
    """A figure, and half the width of its interval where it has one; nothing where it was not measured."""
    if field not in measured:
        return ""
    low, high = measured.get(f"{field}_interval", (0.0, 0.0))
    return f"{measured[field]:.4f}" + (f" ± {(high - low) / 2:.4f}" if high > low else "")


def _counts(measurements: Iterable[Mapping[str, Any]]) -> str:
    """Over how many images they were made."""
    return ", ".join(sorted({str(found["n_images"]) for found in measurements}))


def _row(networks: Mapping[str, Mapping[str, Any]], name: str) -> tuple[str, ...]:
    entry = networks[name]
    measured, trained = entry.get("measured", {}), entry.get("trained", {})
    published = entry.get("published", {})

    def figure(field: str) -> str:
        own = _with_interval(measured, field) or "not measured"
        return own + (f" ({published[field]:.4f})" if field in published else "")

    told = {**published, **trained}
    psi = told.get("final_psi")
    return (
        name,
        entry["training"],
        " + ".join(map(str, epochs_of(entry))),
        f"{told['train_loss']:.4f}",
        "" if psi is None else f"{psi:,}",
        figure("test_accuracy"),
        figure("attack_ara"),
        figure("btr_ara"),
        str(measured.get("n_ara_images", "")),
    )


if __name__ == "__main__":
    main()
