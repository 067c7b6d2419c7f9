"""Adversarial explanations: what would make an image look more like each class (docs/method.md, Explanations)."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from advx_jax.analysis.segments import attack_in_segments
from advx_jax.analysis.soundness import prepared
from advx_jax.analysis.workers import Worker, chunk_rows, pad, spread
from advx_jax.attacks import AttackSettings
from advx_jax.attacks.bounded import TARGETED
from advx_jax.attacks.checks import ImagesLike
from advx_jax.attacks.loop import LogitsFn, LoopAttack

PUBLISHED_SETTINGS = AttackSettings(eps=0.1, steps=35, overshoot=5.0)
"""ρ = 0.1, 35 steps whose lengths sum to 5ρ, no momentum."""


class Explanation(NamedTuple):
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
    logits_fn: LogitsFn,
    images: ImagesLike,
    settings: AttackSettings = PUBLISHED_SETTINGS,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Iterator[tuple[int, Explanation]]:
    """Explain images towards every class, on all devices of this machine.

    Args:
        logits_fn: images to logits, for instance a `Classifier`; in evaluation mode.
        images: on the [0,1] scale. Where there are none, nothing is yielded.
        settings: of the targeted attack.
        on_progress: called with how many images' worth of work was just done; fractions add up.

    Yields:
        The place of an image and its explanation, as they are finished.

    Raises:
        UserError: see `prepared`; when the first explanation is asked for.
    """
    images, _, n_classes = prepared(logits_fn, images)
    if len(images) == 0:
        return
    rows = chunk_rows(len(images), row_factor=n_classes)
    attack = LoopAttack(TARGETED, settings)
    targets = np.repeat(np.arange(n_classes, dtype=np.int32)[:, None], rows, axis=1)

    def work(worker: Worker, begin: int) -> Explanation:
        chunk = pad(images[begin : begin + rows], rows)
        count = min(rows, len(images) - begin)
        logits, confidences = worker.call(_classify, worker.logits_fn, worker.put(chunk))
        result = attack_in_segments(
            worker, attack, chunk, targets, lambda steps: on_progress(count * steps / settings.steps)
        )
        by_class = (result.perturbation, result.rms, result.first_ok, result.succeeded, result.finite)
        by_image = (np.moveaxis(np.asarray(field), 0, 1) for field in by_class)
        return Explanation(np.asarray(logits), np.asarray(confidences), *by_image)

    for begin, batch in spread(logits_fn, range(0, len(images), rows), work):
        for place in range(min(rows, len(images) - begin)):
            yield begin + place, Explanation(*(field[place] for field in batch))


@jax.jit
def _classify(
    logits_fn: LogitsFn, images: Float[Array, "batch *shape"]
) -> tuple[Float[Array, "batch classes"], Float[Array, "batch classes"]]:
    logits = logits_fn(images)
    return logits, jax.nn.softmax(logits)
