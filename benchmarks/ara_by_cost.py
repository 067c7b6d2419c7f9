"""Measure what distances the minimum-norm attacks find for how many gradients, and draw it.

    python -m benchmarks.ara_by_cost [--n_images=32]

Attacks the first images of the published subset of the four published networks: each attack with several numbers of
gradients, as `ara --attack=… --steps=…` does. Every finished measurement is kept in benchmarks/results; the picture
is benchmarks/pictures/ara-by-cost.png. Needs all CIFAR-10 test images.
"""

from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from advx_jax.cli.commands import command, no_arguments
from advx_jax.analysis.robustness_area import minimum_norm_distances, robustness_curve
from advx_jax.analysis.subset import published_subset
from advx_jax.attacks import Attack
from advx_jax.attacks.named import MINIMUM_NORM
from advx_jax.cli.inference_flags import keep_compiled_code
from advx_jax.data.image_set import ImageSet, unit_images
from advx_jax.data.sources import load_images
from advx_jax.errors import UserError
from advx_jax.files import atomic_write
from advx_jax.networks.classifier import Classifier
from advx_jax.networks.registry import resolve_network
from advx_jax.reports.console import table
from advx_jax.reports.results_json import attack_record, fingerprint, read_json
from benchmarks.measured import N_TEST
from benchmarks.side_by_side import RESULTS, ROOT, write

NETWORKS = ("resnet44-all", "resnet44-robust", "resnet44-adv-train", "resnet44-standard")
GRADIENTS = (25, 50, 100, 200)
PICTURE = ROOT / "benchmarks" / "pictures" / "ara-by-cost.png"
_NAME = "ara_by_cost"
# Of those that have names: of L2, and done with so few gradients.
_ATTACKS = {name: MINIMUM_NORM[name] for name in ("published", "ddn", "fmn", "best")}

_N_IMAGES = flags.DEFINE_integer("n_images", 32, "How many images of the published subset.", lower_bound=1)


@command()
def main(arguments: list[str]) -> None:
    """Measure what is not there yet, print it and draw it."""
    no_arguments(arguments)
    keep_compiled_code()
    data = load_images(None, "test")
    if len(data) != N_TEST:
        raise UserError(f"expected all {N_TEST} test images (python -m advx_jax.data.cifar10), got {len(data)}")
    settings = {"n_images": _N_IMAGES.value}
    rows = _kept(settings)
    for network in NETWORKS:
        for name, attack in _attacks():
            resolved = resolve_network(network)
            # A figure of another network, attack or data set is not taken for this one.
            key = fingerprint(attack_record(resolved, attack.settings()) | {"data": data.fingerprint})
            if not any((row["attack"], row["fingerprint"]) == (name, key) for row in rows):
                measured = _measure(resolved.classifier, attack, data)
                rows.append({"network": network, "attack": name, "fingerprint": key} | measured)
                write(_NAME, settings, {"rows": rows})
    cells = [
        (row["network"], row["attack"], row["gradients"], _shown(row["mean_distance"]), _shown(row["ara"]))
        for row in rows
    ]
    print(table(("network", "attack", "gradients", "mean distance", "ARA"), cells))
    draw(PICTURE, rows, _N_IMAGES.value)


def draw(path: Path, rows: list[dict[str, Any]], n_images: int) -> None:
    """Draw the mean distance against the number of gradients, a panel for each network."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(10, 2.9), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(NETWORKS))
    for axes, network in zip(panels, NETWORKS, strict=True):
        for name, marker in zip(_ATTACKS, "so^D", strict=True):
            points = sorted(
                (row["gradients"], row["mean_distance"])
                for row in rows
                if (row["network"], row["attack"]) == (network, name) and row["mean_distance"] is not None
            )
            axes.plot(*zip(*points, strict=True), marker=marker, markersize=4, linewidth=1.2, label=name)
        axes.set_title(network, fontsize=9)
        axes.set_xscale("log")
        ticks = sorted({row["gradients"] for row in rows})
        axes.set_xticks(ticks, map(str, ticks), fontsize=7)
        axes.set_xticks([], minor=True)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.tick_params(axis="y", labelsize=7)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("mean distance (RMS)", fontsize=8)
    panels[0].legend(fontsize=7)
    figure.supxlabel(f"gradient evaluations an image (first {n_images} images, correctly classified ones)", fontsize=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


def _shown(figure: float | None) -> str:
    return "not all crossed" if figure is None else f"{figure:.5f}"


def _attacks() -> list[tuple[str, Attack]]:
    published = _ATTACKS["published"]
    counts = dict.fromkeys(_ATTACKS, GRADIENTS) | {"published": (*GRADIENTS, published.n_steps)}
    return [(name, attack.with_settings(steps=count)) for name, attack in _ATTACKS.items() for count in counts[name]]


def _kept(settings: dict[str, Any]) -> list[dict[str, Any]]:
    path = RESULTS / f"{_NAME}.json"
    if not path.exists():
        return []
    earlier = read_json(path)
    if earlier["settings"] != settings:
        raise UserError(f"expected results with {settings} in {path.name}, got {earlier['settings']}: remove it")
    rows: list[dict[str, Any]] = earlier["rows"]
    return rows


def _measure(classifier: Classifier, attack: Attack, data: ImageSet) -> dict[str, Any]:
    places = published_subset(_N_IMAGES.value, len(data))
    images, labels = unit_images(data.images[places]), data.labels[places].astype(np.int32)
    distances = np.zeros(len(places))
    missed = np.zeros(len(places), bool)
    for part, found in minimum_norm_distances(classifier, images, labels, attack):
        distances[part], missed[part] = found.distances, ~found.measured()
    attacked = distances > 0
    # A mean over fewer images than another attack's would not compare with it.
    whole = not missed.any()
    return {
        "gradients": attack.evaluations,
        "n_attacked": int(attacked.sum()),
        "n_missed": int(missed.sum()),
        "mean_distance": float(distances[attacked].mean()) if whole else None,
        "ara": robustness_curve(distances, classifier.n_classes).area if whole else None,
    }


if __name__ == "__main__":
    main()
