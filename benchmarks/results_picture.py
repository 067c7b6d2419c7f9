"""The picture of the README: four images explained by every network."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from advx_jax.data.image_set import CIFAR10_CLASSES
from advx_jax.files import atomic_write
from advx_jax.reports.explanation_tree import INPUT, RESULTS_FILE, folder_name, picture_names
from advx_jax.reports.results_json import read_json
from benchmarks.measured import ROOT, SHOWN, files_of

PICTURE = ROOT / "benchmarks" / "pictures" / "results.png"

# Inches.
_TILE, _CAPTION, _LEFT = 0.92, 0.3, 2.1


def write_results_picture(path: Path, networks: Sequence[str]) -> None:
    """Draw the images and, for each network that has explained them, the explanations towards two classes.

    Args:
        path: of the PNG.
        networks: names; one without explanations is left out.

    Raises:
        UserError: a results file cannot be read.
    """
    from matplotlib.figure import Figure

    records = {
        name: {entry["name"]: entry for entry in read_json(files_of(name).explanations / RESULTS_FILE)["images"]}
        for name in networks
        if (files_of(name).explanations / RESULTS_FILE).exists()
    }
    if not records:
        return
    columns, rows = 2 * len(SHOWN), 1 + len(records)
    figure = Figure(figsize=(_LEFT + columns * _TILE, rows * (_TILE + _CAPTION)), dpi=110, facecolor="white")
    grid = figure.add_gridspec(
        rows,
        columns,
        left=_LEFT / figure.get_figwidth(),
        right=0.995,
        top=1 - _CAPTION / figure.get_figheight(),
        bottom=0.005,
        wspace=0.05,
        hspace=_CAPTION / _TILE,
    )

    def show(row: int, column: int, file: Path, caption: str) -> None:
        axes = figure.add_subplot(grid[row, column])
        axes.imshow(np.asarray(Image.open(file)), interpolation="nearest")
        axes.set_title(caption, fontsize=7, pad=3)
        axes.set_axis_off()

    for row, (name, images) in enumerate(records.items(), 1):
        height = 1 - (row + 0.5) / rows
        figure.text(0.01, height, name, fontsize=9, va="center")
        for place, index in enumerate(SHOWN):
            entry = images[str(index)]
            folder = files_of(name).explanations / folder_name(entry["name"], CIFAR10_CLASSES[entry["label"]])
            names = picture_names(CIFAR10_CLASSES, entry["confidences"], entry["second"], entry["label"])
            real, second = (CIFAR10_CLASSES[entry[field]] for field in ("label", "second"))
            confidence = entry["confidences"]
            show(row, 2 * place, folder / names.real, f"→ {real} {confidence[entry['label']]:.2f}")
            show(row, 2 * place + 1, folder / names.second, f"→ {second} {confidence[entry['second']]:.2f}")
            if row == 1:
                show(0, 2 * place, folder / INPUT, real)
    figure.text(0.01, 1 - 0.5 / rows, "input", fontsize=9, va="center")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")
