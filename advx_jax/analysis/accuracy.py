"""Accuracy and loss of a network on labelled images."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from advx_jax.analysis.workers import Worker, chunk_rows, pad, spread
from advx_jax.attacks.ascent import cross_entropy
from advx_jax.attacks.loop import LogitsFn


class Predictions(NamedTuple):
    """What a network says of each image.

    Attributes:
        classes: the class with the largest logit (the lowest index on ties).
        losses: cross-entropy with the image's label.
    """

    classes: Int[np.ndarray, " n"]
    losses: Float[np.ndarray, " n"]

    def accuracy(self, labels: Int[np.ndarray, " n"]) -> float:
        """Fraction of the images whose class is the label."""
        return float(np.mean(self.classes == labels))

    def loss(self) -> float:
        """Mean cross-entropy."""
        return float(np.mean(self.losses, dtype=np.float64))


def predict(
    logits_fn: LogitsFn,
    images: Float[np.ndarray, "n *shape"],
    labels: Int[np.ndarray, " n"],
    on_progress: Callable[[int], None] = lambda _: None,
) -> Predictions:
    """Classify images in evaluation mode; no image's result depends on another's.

    Args:
        logits_fn: images to logits.
        images: on the scale that `logits_fn` takes.
        labels: true classes.
        on_progress: called with the number of images just finished.
    """
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
    return logits.argmax(-1), cross_entropy(logits, labels)
