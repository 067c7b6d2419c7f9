"""The picture of a training run: loss, accuracy and ψ against epochs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advx_jax.reports.figures import COLOURS, save_figure

# Told apart in grey, too.
_BATCH = {"color": "#99bbdd", "linewidth": 0.8}
_TRAIN = {"color": COLOURS[0], "marker": "o", "markersize": 3}
_TEST = {"color": COLOURS[1], "marker": "o", "markersize": 3, "linestyle": "--"}


def write_training_curves(path: Path, lines: Sequence[dict[str, Any]], title: str) -> None:
    """Draw a run's metrics as a PNG, whole or not at all.

    Args:
        path: the PNG file.
        lines: of the run's metrics file, in order; at least one is of an epoch.
        title: above the picture.
    """
    # Imported here because it takes most of a second; figures directly, without pyplot's global state.
    from matplotlib.figure import Figure

    steps = [line for line in lines if line["kind"] == "step"]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    # Lines of an earlier call may be anybody's: what they lack is not drawn.
    length = epochs[-1]["step"] / epochs[-1]["epoch"]
    penalised = any(line.get("psi") for line in lines)
    figure = Figure(figsize=(10.5 if penalised else 7.2, 3.6), dpi=130, layout="constrained")
    axes = figure.subplots(1, 3 if penalised else 2)

    def draw(place: int, source: Sequence[dict[str, Any]], name: str, label: str, style: Mapping[str, Any]) -> None:
        x, y = [line["step"] / length for line in source], [line.get(name) for line in source]
        axes[place].plot(x, y, label=label, **style)

    draw(0, steps, "class_loss", "batch", _BATCH)
    draw(0, epochs, "train_loss", "train, mean of the epoch", _TRAIN)
    draw(0, epochs, "test_loss", "test", _TEST)
    draw(1, steps, "accuracy", "batch", _BATCH)
    draw(1, epochs, "train_accuracy", "train, mean of the epoch", _TRAIN)
    draw(1, epochs, "test_accuracy", "test", _TEST)
    axes[0].set(title="class loss", ylim=(0, None))
    axes[1].set(title="accuracy", ylim=(0, 1))
    if penalised:
        draw(2, steps or epochs, "psi", "ψ", _TRAIN | {"marker": ""})
        axes[2].set(title="weight ψ of the Lipschitz penalty", yscale="log")
    for panel in axes:
        panel.set_xlabel("epoch")
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    figure.suptitle(title, parse_math=False)
    save_figure(figure, path)
