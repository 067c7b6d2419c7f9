"""Adversarial explanations: what would make an image look more like each class (docs/method.md, Explanations)."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from advx_jax.analysis.batches import map_batches
from advx_jax.analysis.chunks import Group, chunk_rows, evenly, groups
from advx_jax.analysis.row_cost import row_bytes
from advx_jax.analysis.segments import explained_by, run_in_segments
from advx_jax.analysis.soundness import prepared
from advx_jax.analysis.workers import Worker
from advx_jax.attacks.base import Model
from advx_jax.attacks.checks import ImagesLike
from advx_jax.attacks.explaining import ExplanationAttack, check_explains
from advx_jax.attacks.norms import rms
from advx_jax.attacks.published import EXPLANATION


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """One image explained towards classes, its targets: each of the K classes where nobody chose.

    Attributes:
        logits: of the original image.
        confidences: softmax of those, p_c(x).
        targets: the classes; what follows is in their order.
        perturbations: δ towards each target; image + δ is the explanation, not clipped.
        rms: RMS of each δ on the images' scale.
        first_ok: first step at which δ had reached its bound, RMS(δ) = ρ for the paper's; the number of steps if
            it never did.
        reached: whether it did.
        finite: no value was infinite or NaN on the way.
    """

    logits: Float[np.ndarray, " classes"]
    confidences: Float[np.ndarray, " classes"]
    targets: Int[np.ndarray, " targets"]
    perturbations: Float[np.ndarray, "targets *shape"]
    rms: Float[np.ndarray, " targets"]
    first_ok: Int[np.ndarray, " targets"]
    reached: Bool[np.ndarray, " targets"]
    finite: Bool[np.ndarray, " targets"]


class ExplanationChunk(NamedTuple):
    """How much is explained at a time.

    Attributes:
        rows: images.
        n_targets: classes towards which each is changed; the others of its targets follow.
    """

    rows: int
    n_targets: int


def second_class(logits: Float[np.ndarray, " classes"], label: int) -> int:
    """The most confident class that is not `label`: the one with the largest logit."""
    return int(np.argmax(np.where(np.arange(len(logits)) == label, -np.inf, logits)))


def explain(
    model: Model,
    images: ImagesLike,
    attack: ExplanationAttack = EXPLANATION,
    on_progress: Callable[[float], None] = lambda _: None,
    chunk: ExplanationChunk | None = None,
    targets: Int[np.ndarray, "n targets"] | None = None,
) -> Iterator[tuple[int, Explanation]]:
    """Explain images towards classes, on all devices of this machine.

    Args:
        model: images to logits, for instance a `Classifier`; in evaluation mode.
        images: on the [0,1] scale. Where there are none, nothing is yielded.
        attack: towards a class.
        on_progress: called with how many images' worth of work was just done; fractions add up.
        chunk: how much at a time; by how much there is if None.
        targets: classes for each image; all if None.

    Yields:
        The place of an image and its explanation, as they are finished.

    Raises:
        UserError: see `prepared`; when the first explanation is asked for.
    """
    images, _, n_classes = prepared(model, images)
    if len(images) == 0:
        return
    check_explains(attack)
    attack.check(n_classes)
    if targets is None:
        targets = np.tile(np.arange(n_classes, dtype=np.int32), (len(images), 1))
    targets, n_targets = targets.astype(np.int32), targets.shape[1]
    chunk = explanation_chunk(model, images, attack, n_targets) if chunk is None else chunk

    def work(worker: Worker, count: int, x: Array, classes: Array) -> tuple[np.ndarray, ...]:
        def explain_towards(group: Group) -> list[np.ndarray]:
            def on_steps(steps: int) -> None:
                on_progress(count * steps / attack.steps * group.n / n_targets)

            towards = jnp.take(classes, group.places, axis=1).T
            state = run_in_segments(worker, attack, x, towards, on_steps=on_steps)
            found = explained_by(worker, attack, x, towards, state)
            sizes = worker.call(_rms_of_each, found.perturbation)
            by_class = found.perturbation, sizes, found.first_stop, found.reached, found.finite
            return [np.moveaxis(np.asarray(field), 0, 1)[:, : group.n] for field in by_class]

        parts = [explain_towards(group) for group in groups(n_targets, chunk.n_targets)]
        logits, confidences = map(np.asarray, worker.call(_classify, worker.model, x))
        found = (np.concatenate(field, axis=1) for field in zip(*parts, strict=True))
        return logits, confidences, np.asarray(classes), *found

    for places, fields in map_batches(model, (images, targets), work, chunk.rows):
        for row, place in enumerate(places):
            yield int(place), Explanation(*(field[row] for field in fields))


def explanation_chunk(model: Model, images: Any, attack: ExplanationAttack, n_targets: int) -> ExplanationChunk:
    """How many images make a chunk, and towards how many classes each is changed at once.

    Args:
        model: images to logits.
        images: only their number, shape and type count.
        attack: towards a class.
        n_targets: classes for each image.

    Raises:
        UserError: see `chunk_rows`.
    """
    cost = row_bytes(model, images, attack) if len(images) else 0
    at_once = evenly(n_targets, cost)
    return ExplanationChunk(chunk_rows(len(images), cost, at_once), at_once)


@jax.jit
def _rms_of_each(perturbations: Float[Array, "targets batch *shape"]) -> Float[Array, "targets batch"]:
    return jax.vmap(rms)(perturbations)


@jax.jit
def _classify(
    model: Model, images: Float[Array, "batch *shape"]
) -> tuple[Float[Array, "batch classes"], Float[Array, "batch classes"]]:
    logits = model(images)
    return logits, jax.nn.softmax(logits)
