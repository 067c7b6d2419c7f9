"""The smallest distances that a minimum-norm attack has found after so many passes through the model."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from advx_jax.analysis.batches import map_batches
from advx_jax.analysis.segments import result_of, segment_lengths, segments
from advx_jax.analysis.workers import Worker
from advx_jax.attacks.base import Attack, Model
from advx_jax.attacks.checks import number_of_classes
from advx_jax.attacks.passes import count_passes


class DistancesByPasses(NamedTuple):
    """What an attack has found of each image, at each look.

    Attributes:
        distances: the smallest so far, in the attack's norm; infinite where there is none.
        finite: no logit was NaN or infinite where that decides; otherwise the attack may have lost its way.
    """

    distances: Float[np.ndarray, "n looks"]
    finite: Bool[np.ndarray, " n"]


def passes_at_looks(attack: Attack, n_classes: int, image_shape: tuple[int, ...]) -> list[int]:
    """Passes through the model before each look, forward and backward, if the attack stops there.

    Args:
        attack: to run; of an ensemble the parts run one after the other.
        n_classes: of the model.
        image_shape: of one image.

    Raises:
        UserError: they cannot be counted.
    """
    found, before = [], 0
    for part in attack.parts(n_classes):
        passes, made = count_passes(part.attack, n_classes, image_shape), 0
        for steps in segment_lengths(part.attack.n_steps):
            made += steps
            found.append(before + passes.after(made).total)
        before = found[-1]
    return found


def distances_by_passes(
    model: Model,
    images: Float[np.ndarray, "n *shape"],
    labels: Int[np.ndarray, " n"],
    attack: Attack,
    keys: Key[Array, " n"],
    rows: int,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Iterator[tuple[Int[np.ndarray, " part"], DistancesByPasses]]:
    """Run an attack on images, and look every few steps, on all devices of this machine.

    Args:
        model: images to logits, in evaluation mode.
        images: as `prepared` gives them, none over the boundary.
        labels: true classes.
        attack: one that can work with the model.
        keys: of each image's random draws.
        rows: images a chunk.
        on_progress: called with how many images' worth of work was just done; fractions add up.

    Yields:
        Places of images and what was found, as chunks are finished; looks as `passes_at_looks` counts them.
    """
    if len(images) == 0:
        return
    parts = attack.parts(number_of_classes(model, images))
    n_steps = sum(part.attack.n_steps for part in parts)

    def work(worker: Worker, count: int, x: Array, y: Array, key_data: Array) -> DistancesByPasses:
        smallest, columns = np.full(len(x), np.inf), []
        finite = np.ones(len(x), bool)
        for part in parts:
            draws = part.keys(jax.random.wrap_key_data(key_data))
            for segment in segments(worker, part.attack, x, y, draws):
                result = result_of(worker, part.attack, x, y, segment.state)
                smallest = np.minimum(smallest, np.asarray(result.norm, np.float64))
                columns.append(smallest)
                on_progress(count * segment.steps / n_steps)
            finite &= np.asarray(result.finite)
        return DistancesByPasses(np.stack(columns, 1), finite)

    yield from map_batches(model, (images, labels, np.asarray(jax.random.key_data(keys))), work, rows)
