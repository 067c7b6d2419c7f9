"""What is known of every network with a name: where its measurements lie and what they say."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from advx_jax.analysis.area_interval import area_interval
from advx_jax.configs.published import published
from advx_jax.files import atomic_write
from advx_jax.reports.results_json import read_json

ROOT = Path(__file__).parents[1]
PREBUILT = ROOT / "prebuilt"
MANIFEST = PREBUILT / "manifest.json"
MEASURED = PREBUILT / "measured"
"""A folder for each network, with what `evaluate`, `ara` and `explain` wrote."""

N_TEST = 10_000
"""Images of the whole test set."""

SHOWN = (2, 5, 8, 9)
"""Test images of the picture, as in the published code's own table: ship, frog, cat, automobile."""


class Ball(NamedTuple):
    """Within which AutoAttack looks for misclassified images.

    Attributes:
        norm: as `--norm` of `robustness`.
        eps: as `--eps`.
        label: how people write it.
    """

    norm: str
    eps: float
    label: str

    @property
    def folder(self) -> str:
        """Name of the folder of its results."""
        return f"robustness-{self.norm}-{self.eps:.4g}"


BALLS = (Ball("L2", 0.5, "L2 0.5"), Ball("Linf", 4 / 255, "L∞ 4/255"))


BENCHED: dict[str, tuple[str, ...]] = {
    "L0": ("best@500", "best", "sigma-zero", "fmn"),
    "L1": ("best@500", "best", "fmn-steep", "fmn", "pdpgd", "apgd"),
    "L2": ("best@500", "best", "alma", "fmn", "ddn", "pdgd", "apgd"),
    "Linf": ("best@500", "best", "fmn-steep", "fmn", "pdpgd", "apgd", "apgd-t"),
}
"""By norm, the minimum-norm attacks that are scored, as `--attacks` of `attackbench`."""


class Files(NamedTuple):
    """Where the measurements of a network lie.

    Attributes:
        accuracy: JSON of `evaluate` on all test images.
        sample_accuracy: JSON of `evaluate` on the shipped sample.
        ara: folder of `ara`.
        best_ara: folder of `ara --attack=best`.
        robustness: folders of `robustness`, as many as `BALLS`.
        explanations: folder of `explain`.
        benches: folders of `attackbench` by norm.
        peers: what `benchmarks.adv_lib_distances` wrote, by norm.
    """

    accuracy: Path
    sample_accuracy: Path
    ara: Path
    best_ara: Path
    robustness: tuple[Path, ...]
    explanations: Path
    benches: dict[str, Path]
    peers: dict[str, Path]


def files_of(name: str) -> Files:
    """Where the measurements of the network `name` lie, whether they are there or not."""
    folder = MEASURED / name
    return Files(
        accuracy=folder / "accuracy.json",
        sample_accuracy=folder / "accuracy-sample.json",
        ara=folder / "ara",
        best_ara=folder / "ara-best",
        robustness=tuple(folder / ball.folder for ball in BALLS),
        explanations=folder / "explain",
        benches={norm: folder / f"attackbench-{norm}" for norm in BENCHED},
        peers={norm: folder / "adv-lib" / f"adv-lib-{norm}.json" for norm in BENCHED},
    )


def epochs_of(entry: Mapping[str, Any]) -> list[int]:
    """Epochs of the runs that a network of the manifest comes from, the first one first."""
    trained = entry.get("trained", {"epochs": published("").epochs})
    return [*trained.get("epochs_before", ()), trained["epochs"]]


def measurements(name: str) -> dict[str, Any]:
    """Figures of a network, from its files; those that are not measured are missing."""
    files = files_of(name)
    found: dict[str, Any] = {}
    if files.accuracy.exists():
        accuracy = read_json(files.accuracy)
        found |= {"test_accuracy": accuracy["accuracy"], "test_loss": accuracy["loss"], "n_test": accuracy["n_images"]}
    if files.sample_accuracy.exists():
        found["sample_correct"] = read_json(files.sample_accuracy)["correct"]
    for prefix, folder in (("", files.ara), ("best_", files.best_ara)):
        if (folder / "ara.json").exists():
            ara = read_json(folder / "ara.json")
            for kind in ("attack", "btr"):
                found[f"{prefix}{kind}_ara"] = ara[kind]["ara"]
                distances = [math.nan if d is None else d for d in ara[kind]["distances"]]
                # Files of earlier releases do not say it; all these networks tell ten classes apart.
                low, high = area_interval(distances, ara[kind].get("n_classes", 10))
                found[f"{prefix}{kind}_ara_interval"] = [round(low, 6), round(high, 6)]
            found[f"n_{prefix}ara_images"] = ara["attack"]["n_images"]
    if (files.ara / "ara.json").exists() and (files.best_ara / "ara.json").exists():
        ara, best = (read_json(folder / "ara.json") for folder in (files.ara, files.best_ara))
        found["best_over_published"] = {kind: _compared(best[kind], ara[kind]) for kind in ("attack", "btr")}
    under = {}
    for ball, folder in zip(BALLS, files.robustness, strict=True):
        if (folder / "robustness.json").exists():
            robustness = read_json(folder / "robustness.json")
            under[ball.label] = {
                "accuracy": robustness["accuracy"],
                "robust_accuracy": robustness["robust_accuracy"],
                "n_images": robustness["settings"]["n_images"],
            }
    return found | ({"autoattack": under} if under else {})


def _compared(area: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Sum of the distances over those of another attack, of the images that both have measured, and their number."""
    ours, theirs = (
        {index: d for index, d in zip(found["indices"], found["distances"], strict=True) if d is not None}
        for found in (area, other)
    )
    common = ours.keys() & theirs.keys()
    ratio = sum(ours[index] for index in sorted(common)) / sum(theirs[index] for index in sorted(common))
    return {"ratio": ratio, "n_images": len(common)}


def read_manifest() -> dict[str, Any]:
    """All of the manifest."""
    content: dict[str, Any] = json.loads(MANIFEST.read_text(encoding="utf-8"))
    return content


def write_manifest(content: Mapping[str, Any]) -> None:
    """Write all of the manifest, whole or not at all."""
    with atomic_write(MANIFEST) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
