"""What a model says of images: predictions, accuracy, loss."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from advx_jax.analysis.batches import gather, map_batches
from advx_jax.analysis.chunks import chunk_rows
from advx_jax.analysis.row_cost import row_bytes
from advx_jax.analysis.soundness import prepared
from advx_jax.analysis.workers import Worker
from advx_jax.attacks.ascent import at_least_float32, cross_entropy
from advx_jax.attacks.base import Model
from advx_jax.attacks.checks import ImagesLike, LabelsLike, checked_labels
from advx_jax.progress import call_progress


class Predictions(NamedTuple):
    """What a model says of each image.

    Attributes:
        logits: of each class.
    """

    logits: Float[np.ndarray, "n classes"]

    def __repr__(self) -> str:
        n, n_classes = self.logits.shape
        said = f"{n} images, {n_classes} classes"
        if n:
            said += f", median confidence {np.median(self.confidences.max(-1)):.3f}"
        if unclear := int((self.classes < 0).sum()):
            said += f", {unclear} without a class"
        return f"Predictions({said})"

    @property
    def classes(self) -> Int[np.ndarray, " n"]:
        """The class with the largest logit (the lowest index on ties).

        -1 where a logit is NaN or the largest is infinite, which is no class: argmax would take a NaN for the
        largest, and the label could be its place.
        """
        return np.where(np.isfinite(self.logits.max(-1, initial=-np.inf)), self.logits.argmax(-1), -1)

    @property
    def confidences(self) -> Float[np.ndarray, "n classes"]:
        """Softmax of the logits."""
        return np.asarray(jax.nn.softmax(self.logits))

    def accuracy(self, labels: LabelsLike) -> float:
        """Fraction of the images whose class is the label; NaN if there are none."""
        y = self._labels(labels)
        return float(np.mean(self.classes == y)) if len(y) else math.nan

    def losses(self, labels: LabelsLike) -> Float[np.ndarray, " n"]:
        """Cross-entropy with each image's label."""
        return np.asarray(cross_entropy(jnp.asarray(self.logits), jnp.asarray(self._labels(labels))))

    def loss(self, labels: LabelsLike) -> float:
        """Mean cross-entropy; NaN if there are no images."""
        return float(np.mean(self.losses(labels), dtype=np.float64)) if len(self.logits) else math.nan

    def _labels(self, labels: LabelsLike) -> Int[np.ndarray, " n"]:
        if len(self.logits) == 0 and np.size(labels) == 0:
            return np.zeros(0, np.int32)
        return np.asarray(checked_labels(labels, *self.logits.shape))


def predict(
    model: Model,
    images: ImagesLike,
    on_progress: Callable[[int], None] = lambda _: None,
    progress: bool | None = None,
) -> Predictions:
    """Classify images in evaluation mode; no image's result depends on another's.

    Args:
        model: images to logits; in evaluation mode.
        images: on the [0,1] scale. Where there are none, there are no predictions.
        on_progress: called with the number of images just finished.
        progress: show a bar; None for in a notebook only.

    Raises:
        UserError: model or images are none to work with.
    """
    x, _, _ = prepared(model, images)
    return _predict(model, x, on_progress, progress)


def _predict(
    model: Model,
    x: Float[np.ndarray, "n *shape"],
    on_progress: Callable[[int], None] = lambda _: None,
    progress: bool | None = None,
) -> Predictions:
    """Classify images that were checked."""
    if len(x) == 0:
        return Predictions(np.zeros((0, 1), np.float32))

    def work(worker: Worker, count: int, x: Array) -> Array:
        logits: Array = worker.call(_logits, worker.model, x)
        update(count)
        return logits

    rows = chunk_rows(len(x), row_bytes(model, x))
    with call_progress(len(x), "predict", progress, on_progress) as update:
        return Predictions(gather(len(x), map_batches(model, (x,), work, rows)))


def accuracy(model: Model, images: ImagesLike, labels: LabelsLike, progress: bool | None = None) -> float:
    """Fraction of images that the model classifies right; NaN if there are none.

    Args:
        model: images to logits; in evaluation mode.
        images: on the [0,1] scale.
        labels: true classes.
        progress: show a bar; None for in a notebook only.

    Raises:
        UserError: model, images or labels are none to work with.
    """
    x, y, _ = prepared(model, images, labels)
    return _predict(model, x, progress=progress).accuracy(y)


@jax.jit
def _logits(model: Model, images: Float[Array, "batch *shape"]) -> Float[Array, "batch classes"]:
    return at_least_float32(model(images))
