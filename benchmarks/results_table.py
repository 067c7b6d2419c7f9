"""Rebuild the README's table of results, its picture and the manifest's figures from the measurements.

    python -m benchmarks.results_table

Reads what `evaluate`, `ara` and `explain` wrote into prebuilt/measured (`python -m benchmarks.measure_networks`).
Nothing in the table is typed by hand.
"""

from collections.abc import Mapping
from typing import Any

from advx_jax.commands import no_arguments, run
from advx_jax.errors import UserError
from advx_jax.files import written_whole
from benchmarks.measured import ROOT, measurements, read_manifest, write_manifest
from benchmarks.results_picture import PICTURE, write_results_picture
from configs.published import published as published_config

README = ROOT / "README.md"
BEGIN, END = "<!-- results: python -m benchmarks.results_table -->", "<!-- end of results -->"

_PUBLISHED_EPOCHS = published_config("").epochs
_HEADER = ("network", "trained with", "epochs", "train loss", "final ψ", "accuracy", "attack ARA", "BTR ARA", "images")


def main(arguments: list[str]) -> None:
    """Rebuild all three."""
    no_arguments(arguments)
    content = read_manifest()
    for name, entry in content["networks"].items():
        if found := measurements(name):
            entry["measured"] = found
    write_manifest(content)
    text = README.read_text(encoding="utf-8")
    with written_whole(README) as temporary:
        temporary.write_text(with_table(text, content["networks"]), encoding="utf-8")
    write_results_picture(PICTURE, list(content["networks"]))
    print(results_table(content["networks"]))


def with_table(readme: str, networks: Mapping[str, Mapping[str, Any]]) -> str:
    """The README with the table of these networks in place of the one that it has.

    Raises:
        UserError: the README does not say where the table is.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"expected the lines {BEGIN} and {END} in the README, got none")
    return f"{before}{BEGIN}\n{results_table(networks)}\n{END}{after}"


def results_table(networks: Mapping[str, Mapping[str, Any]]) -> str:
    """All networks of the manifest as a Markdown table; published figures stand in brackets."""
    rows = [_HEADER, ("---",) * len(_HEADER), *(_row(networks, name) for name in networks)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _epochs(networks: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """Epochs of training, those of the network that it started from first."""
    trained = networks[name].get("trained", {"epochs": _PUBLISHED_EPOCHS})
    first = f"{_epochs(networks, trained['starts_from'])} + " if "starts_from" in trained else ""
    return f"{first}{trained['epochs']}"


def _row(networks: Mapping[str, Mapping[str, Any]], name: str) -> tuple[str, ...]:
    entry = networks[name]
    measured, trained = entry.get("measured", {}), entry.get("trained", {})
    published = entry.get("published", {})

    def figure(field: str) -> str:
        own = f"{measured[field]:.4f}" if field in measured else "not measured"
        return own + (f" ({published[field]:.4f})" if field in published else "")

    told = {**published, **trained}
    psi = told.get("final_psi")
    return (
        name,
        entry["training"],
        _epochs(networks, name),
        f"{told['train_loss']:.4f}",
        "" if psi is None else f"{psi:,}",
        figure("test_accuracy"),
        figure("attack_ara"),
        figure("btr_ara"),
        str(measured.get("n_ara_images", "")),
    )


if __name__ == "__main__":
    run(main, __doc__)
