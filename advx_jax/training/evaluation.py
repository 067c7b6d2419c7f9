"""Accuracy while training, shared among the processes."""

from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from advx_jax.analysis.accuracy import predict
from advx_jax.data.image_set import ImageSet, unit_images
from advx_jax.networks.classifier import Classifier
from advx_jax.training.parallel import from_words, in_words


class Evaluation(NamedTuple):
    """In evaluation mode, over all images of a set.

    Attributes:
        accuracy: fraction classified right.
        loss: mean cross-entropy.
    """

    accuracy: float
    loss: float


def evaluate(classifier: Classifier, data: ImageSet) -> Evaluation:
    """Measure a network; each process takes its share of the images."""
    mine = slice(jax.process_index(), None, jax.process_count())
    labels = data.labels[mine].astype(np.int32)
    predictions = predict(classifier, unit_images(data.images[mine]))
    sums = np.array([(predictions.classes == labels).sum(), predictions.losses(labels).sum(dtype=np.float64)])
    if jax.process_count() > 1:
        sums = from_words(multihost_utils.process_allgather(in_words(sums))).reshape(-1, 2).sum(0)
    return Evaluation(*(sums / len(data)).tolist())
