"""ARA: one number for accuracy and robustness together (docs/method.md, Accuracy-robustness area)."""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from advx_jax.analysis.segments import attack_in_segments
from advx_jax.analysis.workers import Worker, chunk_rows, pad, spread
from advx_jax.attacks import AttackSettings
from advx_jax.attacks.best import BEST
from advx_jax.attacks.chain import Chain, MinimumNormAttack, smaller_success
from advx_jax.attacks.criteria import UNTIL_MISCLASSIFIED, UNTIL_RANDOM, Criterion
from advx_jax.attacks.ddn import DDN
from advx_jax.attacks.fmn import FMN
from advx_jax.attacks.loop import LogitsFn
from advx_jax.attacks.minimum_norm import Published
from advx_jax.attacks.search import Search

PUBLISHED_SETTINGS = AttackSettings(eps=20.0, steps=450, momentum=0.9)
"""A path of length 20 in 450 steps, momentum 0.9."""

PUBLISHED_ATTACK = Published(PUBLISHED_SETTINGS)

SEARCHES: dict[str, Search | Chain] = {"ddn": DDN(), "fmn": FMN(), "best": BEST}
"""Other attacks, by name; they find smaller distances with fewer gradients."""

KINDS: dict[str, Criterion] = {"attack": UNTIL_MISCLASSIFIED, "btr": UNTIL_RANDOM}
"""The paper's two: until misclassified, and until no better than random."""

_BINS = 1000


class Distances(NamedTuple):
    """How far each image is from a boundary.

    Attributes:
        distances: RMS of the minimum-norm perturbation found.
        first_ok: first step at which the boundary was crossed; the number of steps if it never was.
        crossed: whether it ever was; if not, the distance is 0 and means nothing.
        finite: no value was infinite or NaN on the way.
    """

    distances: Float[np.ndarray, " n"]
    first_ok: Int[np.ndarray, " n"]
    crossed: Bool[np.ndarray, " n"]
    finite: Bool[np.ndarray, " n"]

    def measured(self) -> Bool[np.ndarray, " n"]:
        """Which images have a distance that may enter an ARA."""
        return self.crossed & self.finite


class RobustnessCurve(NamedTuple):
    """Accuracy left when every image may be perturbed by so much, and the area under it.

    Attributes:
        perturbations: upper ends of 1000 equal bins, RMS on the images' scale.
        accuracies: fraction of the images whose distance lies in a later bin.
        area: ARA, the area between the curve and chance level.
    """

    perturbations: Float[np.ndarray, " bins"]
    accuracies: Float[np.ndarray, " bins"]
    area: float


def robustness_curve(distances: Float[np.ndarray, " n"], n_classes: int = 10) -> RobustnessCurve:
    """Compute the accuracy-robustness area of distances.

    ARA = gap·Σ_bins max(0, 1 - C/n - 1/K), with 1000 bins of width gap on [0, max d] and C the count up to
    and including a bin; 0 if all distances are 0.

    Args:
        distances: of images that were all measured; misclassified ones have 0.
        n_classes: K.

    Returns:
        The curve; its area is NaN if there are no distances.
    """
    d = np.asarray(distances, np.float64)
    largest = d.max(initial=0.0)
    counts = np.histogram(d, bins=_BINS, range=(0, largest if largest > 0 else 1))[0]
    accuracies = 1 - counts.cumsum() / max(len(d), 1)
    gap = largest / _BINS
    area = float(gap * np.maximum(accuracies - 1 / n_classes, 0).sum()) if len(d) else float("nan")
    return RobustnessCurve(gap * np.arange(1, _BINS + 1), accuracies, area)


def minimum_norm_distances(
    logits_fn: LogitsFn,
    images: Float[np.ndarray, "n *shape"],
    labels: Int[np.ndarray, " n"],
    attack: MinimumNormAttack = PUBLISHED_ATTACK,
    on_progress: Callable[[float], None] = lambda _: None,
    on_spared: Callable[[float], None] = lambda _: None,
) -> Iterator[tuple[Int[np.ndarray, " part"], Distances]]:
    """Measure the distances of images to a boundary, on all devices of this machine.

    An image that is over the boundary to begin with has distance 0, and nothing is smaller: it is
    answered from one evaluation, and only the others are attacked.

    Args:
        logits_fn: images to logits, for instance a `Classifier`.
        images: on the scale that `logits_fn` takes.
        labels: true classes.
        attack: until one of the criteria in `KINDS`.
        on_progress: called with how many images' worth of work was just done; fractions add up.
        on_spared: called with how many images need no attack.

    Yields:
        Places of images and their distances, as chunks are finished.
    """
    start_rows = chunk_rows(len(images))

    def look(worker: Worker, begin: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(begin, begin + start_rows)
        arrays = (worker.put(pad(images[part], start_rows)), worker.put(pad(labels[part], start_rows)))
        return jax.device_get(worker.call(_starts_inside, worker.logits_fn, attack.criterion, *arrays))

    inside = np.zeros(len(images), bool)
    finite = np.zeros(len(images), bool)
    for begin, answer in spread(logits_fn, range(0, len(images), start_rows), look):
        part = slice(begin, min(begin + start_rows, len(images)))
        inside[part], finite[part] = (field[: part.stop - begin] for field in answer)

    # What is not finite at the start has no distance, and no attack would give it one.
    settled = np.flatnonzero(~inside | ~finite)
    if len(settled):
        zeros = np.zeros(len(settled), np.float32)
        yield settled, Distances(zeros, np.zeros(len(settled), np.int32), ~inside[settled], finite[settled])
        on_spared(len(settled))

    remaining = np.flatnonzero(inside & finite)
    rows = chunk_rows(len(remaining))

    def work(worker: Worker, begin: int) -> Distances:
        places = remaining[begin : begin + rows]
        x, y = pad(images[places], rows), pad(labels[places], rows)

        def on_steps(steps: int) -> None:
            on_progress(len(places) * steps / attack.steps)

        results = [attack_in_segments(worker, part, x, y[None], on_steps) for part in attack.parts]
        result = functools.reduce(jax.vmap(smaller_success), results)
        fields = (jnp.where(result.succeeded, result.rms, 0), result.first_ok, result.succeeded, result.finite)
        return Distances(*(np.asarray(field)[0, : len(places)] for field in fields))

    for begin, found in spread(logits_fn, range(0, len(remaining), rows), work):
        yield remaining[begin : begin + rows], found


@functools.partial(jax.jit, static_argnames=("criterion",))
def _starts_inside(
    logits_fn: LogitsFn,
    criterion: Criterion,
    images: Float[Array, "batch *shape"],
    labels: Int[Array, " batch"],
) -> tuple[Bool[Array, " batch"], Bool[Array, " batch"]]:
    logits = logits_fn(images)
    return ~criterion.success(logits, labels), jnp.isfinite(logits).all(-1)
