"""Accuracy and loss of a network on labelled images."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from advx_jax.analysis.soundness import prepared
from advx_jax.analysis.workers import Worker, chunk_rows, pad, spread
from advx_jax.attacks.ascent import cross_entropy
from advx_jax.attacks.checks import ImagesLike, LabelsLike
from advx_jax.attacks.loop import LogitsFn
from advx_jax.errors import UserError


class Predictions(NamedTuple):
    """What a network says of each image.

    Attributes:
        classes: the class with the largest logit (the lowest index on ties); -1 where a logit is NaN or the
            largest is infinite, which is no class.
        losses: cross-entropy with the image's label.
    """

    classes: Int[np.ndarray, " n"]
    losses: Float[np.ndarray, " n"]

    def accuracy(self, labels: LabelsLike) -> float:
        """Fraction of the images whose class is the label; NaN if there are none."""
        labels = np.asarray(labels)
        if labels.shape != self.classes.shape:
            raise UserError(f"expected a label for each of {len(self.classes)} images, got shape {labels.shape}")
        return float(np.mean(self.classes == labels)) if len(labels) else math.nan

    def loss(self) -> float:
        """Mean cross-entropy; NaN if there are no images."""
        return float(np.mean(self.losses, dtype=np.float64)) if len(self.losses) else math.nan


def predict(
    logits_fn: LogitsFn,
    images: ImagesLike,
    labels: LabelsLike,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Predictions:
    """Classify images in evaluation mode; no image's result depends on another's.

    Args:
        logits_fn: images to logits; in evaluation mode.
        images: on the [0,1] scale. Where there are none, there are no predictions.
        labels: true classes.
        on_progress: called with the number of images just finished.

    Raises:
        UserError: see `prepared`.
    """
    images, labels, _ = prepared(logits_fn, images, labels)
    rows = chunk_rows(len(images))
    classes = np.zeros(len(images), np.int64)
    losses = np.zeros(len(images), np.float32)

    def work(worker: Worker, begin: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(begin, begin + rows)
        arrays = worker.put(pad(images[part], rows)), worker.put(pad(labels[part], rows))
        return jax.device_get(worker.call(_classify, worker.logits_fn, *arrays))

    for begin, (found, loss) in spread(logits_fn, range(0, len(images), rows), work):
        part = slice(begin, min(begin + rows, len(images)))
        count = part.stop - begin
        classes[part], losses[part] = found[:count], loss[:count]
        on_progress(count)
    return Predictions(classes, losses)


@jax.jit
def _classify(
    logits_fn: LogitsFn, images: Float[Array, "batch *shape"], labels: Int[Array, " batch"]
) -> tuple[Int[Array, " batch"], Float[Array, " batch"]]:
    logits = logits_fn(images)
    # argmax would take a NaN for the largest, and the label could be its place.
    return jnp.where(jnp.isfinite(logits.max(-1)), logits.argmax(-1), -1), cross_entropy(logits, labels)
