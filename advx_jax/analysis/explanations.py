"""Adversarial explanations: what would make an image look more like each class (docs/method.md, Explanations)."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from advx_jax.analysis.batches import map_batches
from advx_jax.analysis.chunks import chunk_rows
from advx_jax.analysis.row_cost import row_bytes
from advx_jax.analysis.segments import result_of, run_in_segments
from advx_jax.analysis.soundness import prepared
from advx_jax.analysis.workers import Worker
from advx_jax.attacks.base import Model
from advx_jax.attacks.checks import ImagesLike
from advx_jax.attacks.norms import rms
from advx_jax.attacks.published import EXPLANATION, PublishedBounded, PublishedState


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """One image explained towards each of the K classes.

    Attributes:
        logits: of the original image.
        confidences: softmax of those, p_c(x).
        perturbations: δ towards each class; image + δ is the explanation, not clipped.
        rms: RMS of each δ on the images' scale.
        first_ok: first step at which RMS(δ) had reached ρ; the number of steps if it never did.
        reached: whether it did.
        finite: no value was infinite or NaN on the way.
    """

    logits: Float[np.ndarray, " classes"]
    confidences: Float[np.ndarray, " classes"]
    perturbations: Float[np.ndarray, "classes *shape"]
    rms: Float[np.ndarray, " classes"]
    first_ok: Int[np.ndarray, " classes"]
    reached: Bool[np.ndarray, " classes"]
    finite: Bool[np.ndarray, " classes"]


def second_class(logits: Float[np.ndarray, " classes"], label: int) -> int:
    """The most confident class that is not `label`: the one with the largest logit."""
    return int(np.argmax(np.where(np.arange(len(logits)) == label, -np.inf, logits)))


def explain(
    model: Model,
    images: ImagesLike,
    attack: PublishedBounded = EXPLANATION,
    on_progress: Callable[[float], None] = lambda _: None,
    rows: int | None = None,
) -> Iterator[tuple[int, Explanation]]:
    """Explain images towards every class, on all devices of this machine.

    Args:
        model: images to logits, for instance a `Classifier`; in evaluation mode.
        images: on the [0,1] scale. Where there are none, nothing is yielded.
        attack: towards a class.
        on_progress: called with how many images' worth of work was just done; fractions add up.
        rows: images a chunk; by how many there are if None.

    Yields:
        The place of an image and its explanation, as they are finished.

    Raises:
        UserError: see `prepared`; when the first explanation is asked for.
    """
    images, _, n_classes = prepared(model, images)
    if len(images) == 0:
        return
    attack.check(n_classes)
    rows = explanation_rows(model, images, attack, n_classes) if rows is None else rows
    classes = np.repeat(np.arange(n_classes, dtype=np.int32)[:, None], rows, axis=1)

    def work(worker: Worker, count: int, x: Array) -> tuple[np.ndarray, ...]:
        def on_steps(steps: int) -> None:
            on_progress(count * steps / attack.steps)

        targets = worker.put(classes)
        state = run_in_segments(worker, attack, x, targets, on_steps=on_steps)
        result = result_of(worker, attack, x, targets, state)
        by_class = worker.call(_of_each, attack, state, result.finite)
        logits, confidences = map(np.asarray, worker.call(_classify, worker.model, x))
        return logits, confidences, *(np.moveaxis(np.asarray(field), 0, 1) for field in by_class)

    for places, fields in map_batches(model, (images,), work, rows):
        for row, place in enumerate(places):
            yield int(place), Explanation(*(field[row] for field in fields))


def explanation_rows(model: Model, images: Any, attack: PublishedBounded, n_classes: int) -> int:
    """How many images make a chunk, each towards all classes at once.

    Args:
        model: images to logits.
        images: only their number, shape and type count.
        attack: towards a class.
        n_classes: of the model.

    Raises:
        UserError: see `chunk_rows`.
    """
    return chunk_rows(len(images), row_bytes(model, images, attack) if len(images) else 0, n_classes)


@jax.jit
def _of_each(attack: PublishedBounded, state: PublishedState, finite: Array) -> tuple[Array, ...]:
    """Of each class and image: δ, its RMS, when it had reached ρ, whether it did, and whether all was finite."""
    first_stop = state.first_stop
    return state.perturbation, jax.vmap(rms)(state.perturbation), first_stop, first_stop < attack.steps, finite


@jax.jit
def _classify(
    model: Model, images: Float[Array, "batch *shape"]
) -> tuple[Float[Array, "batch classes"], Float[Array, "batch classes"]]:
    logits = model(images)
    return logits, jax.nn.softmax(logits)
