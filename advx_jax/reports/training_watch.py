"""Watching a training run: a bar, JSON lines, TensorBoard, and curves."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from advx_jax.progress import Update, progress
from advx_jax.reports.training_curves import write_training_curves
from advx_jax.reports.training_record import MetricsFile, read_metrics
from advx_jax.training.batches import Plan
from advx_jax.training.bookkeeping import HostMetrics
from advx_jax.training.checkpoints import Progress
from advx_jax.training.loop import EpochSummary
from advx_jax.training.recipe import Recipe
from advx_jax.training.schedule import learning_rate_schedule

TENSORBOARD = "tensorboard"


class TrainingWatch:
    """Shows and writes how training goes; the `Watcher` of a run. Only one process of a run watches.

    Args:
        recipe: what is trained.
        workdir: where the files go.
        context: closes the bar and the files at its end.
    """

    def __init__(self, recipe: Recipe, workdir: Path, context: contextlib.ExitStack) -> None:
        self._recipe, self._workdir, self._context = recipe, workdir, context
        self._images_since, self._clock = 0, time.monotonic()

    def begin(self, plan: Plan, start: Progress) -> None:
        """Training goes on from `start`; its step is 0 for a new run."""
        # Imported here because it takes a while, and the other commands do without.
        from tensorboardX import SummaryWriter

        self._plan = plan
        self._learning_rate = learning_rate_schedule(self._recipe, plan.steps_per_epoch)
        if start.step:
            print(f"going on from step {start.step} of {plan.n_steps}", flush=True)
        self._file = MetricsFile(self._workdir, start.step)
        folder = self._workdir / TENSORBOARD
        self._board = self._context.enter_context(
            contextlib.closing(SummaryWriter(str(folder), purge_step=start.step + 1))
        )
        self._update: Update = self._context.enter_context(
            progress(plan.n_steps, "step", self._recipe.name, done=start.step)
        )
        self._clock = time.monotonic()

    def step(self, step: int, metrics: HostMetrics) -> None:
        """A step, counted from 1, was made."""
        self._images_since += int(metrics.n_examples)
        note = ""
        if step % self._recipe.keeping.log_every == 0 or step == self._plan.n_steps:
            line = self._step_line(step, metrics)
            self._write(line)
            note = f"loss {line['class_loss']:.3f}, accuracy {line['accuracy']:.3f}"
            if self._recipe.penalty:
                note += f", ψ {line['psi']:.0f}"
            note += f", {line['images_per_second']:.0f} images/s"
        self._update(1, note)

    def epoch(self, summary: EpochSummary) -> None:
        """An epoch has ended."""
        line = {
            "kind": "epoch",
            "step": summary.step,
            "epoch": summary.epoch,
            "train_loss": summary.train_loss,
            "train_accuracy": summary.train_accuracy,
            "test_loss": summary.test.loss,
            "test_accuracy": summary.test.accuracy,
            "integrator": summary.integrator,
            "psi": summary.psi,
            "seconds": round(summary.seconds, 1),
        }
        if summary.held_out:
            line |= {"held_out_loss": summary.held_out.loss, "held_out_accuracy": summary.held_out.accuracy}
        self._write(line)
        write_training_curves(self._workdir / "curves.png", list(read_metrics(self._workdir)), self._recipe.name)
        psi = f", ψ {summary.psi:.0f}" if self._recipe.penalty else ""
        text = (
            f"epoch {summary.epoch} of {self._plan.epochs}: train loss {summary.train_loss:.4f}, "
            f"test accuracy {summary.test.accuracy:.4f}{psi}"
        )
        self._update(0, "")
        _print_above_bar(text)
        self._images_since, self._clock = 0, time.monotonic()

    def _step_line(self, step: int, metrics: HostMetrics) -> dict[str, Any]:
        now = time.monotonic()
        speed = self._images_since / max(now - self._clock, 1e-9)
        self._images_since, self._clock = 0, now
        return {
            "kind": "step",
            "step": step,
            "epoch": (step - 1) // self._plan.steps_per_epoch + 1,
            "class_loss": metrics.class_loss,
            "accuracy": metrics.n_correct / metrics.n_examples,
            "penalty": metrics.penalty,
            "psi": metrics.psi,
            "integrator": metrics.integrator,
            "gradient_norm": metrics.gradient_norm,
            "learning_rate": float(self._learning_rate(step - 1)),
            "images_per_second": round(speed, 2),
        }

    def _write(self, line: dict[str, Any]) -> None:
        self._file.add(line)
        for name, value in line.items():
            if name not in ("kind", "step", "epoch") and value is not None:
                self._board.add_scalar(f"{line['kind']}/{name}", value, line["step"])


class NoWatch:
    """The `Watcher` of the processes that only compute."""

    def begin(self, plan: Plan, start: Progress) -> None:
        """Nothing."""

    def step(self, step: int, metrics: HostMetrics) -> None:
        """Nothing."""

    def epoch(self, summary: EpochSummary) -> None:
        """Nothing."""


@contextlib.contextmanager
def watching(recipe: Recipe, workdir: Path) -> Iterator[TrainingWatch | NoWatch]:
    """Watch a run; in all processes but the first, nothing is shown or written."""
    if jax.process_index() > 0:
        yield NoWatch()
        return
    with contextlib.ExitStack() as context:
        yield TrainingWatch(recipe, workdir, context)


def _print_above_bar(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(text)
