"""ARA: one number for accuracy and robustness together (docs/method.md, Accuracy-robustness area)."""

import functools
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from advx_jax.analysis.segments import attack_in_segments
from advx_jax.analysis.soundness import prepared
from advx_jax.analysis.workers import Worker, chunk_rows, pad, spread
from advx_jax.attacks import AttackSettings
from advx_jax.attacks.best import BEST
from advx_jax.attacks.chain import Chain, MinimumNormAttack, smaller_success
from advx_jax.attacks.checks import ImagesLike, LabelsLike
from advx_jax.attacks.criteria import UNTIL_MISCLASSIFIED, UNTIL_RANDOM, Criterion
from advx_jax.attacks.ddn import DDN
from advx_jax.attacks.fmn import FMN
from advx_jax.attacks.loop import LogitsFn
from advx_jax.attacks.minimum_norm import Published
from advx_jax.attacks.search import Search
from advx_jax.errors import UserError

PUBLISHED_SETTINGS = AttackSettings(eps=20.0, steps=450, momentum=0.9)
"""A path of length 20 in 450 steps, momentum 0.9."""

PUBLISHED_ATTACK = Published(PUBLISHED_SETTINGS)

SEARCHES: dict[str, Search | Chain] = {"ddn": DDN(), "fmn": FMN(), "best": BEST}
"""Other attacks, by name; they find smaller distances with fewer gradients."""

KINDS: dict[str, Criterion] = {"attack": UNTIL_MISCLASSIFIED, "btr": UNTIL_RANDOM}
"""The paper's two: until misclassified, and until no better than random."""

DistancesLike = Any
"""A distance for each image, as an array or a list of numbers."""

_BINS = 1000
_FEWEST_CLASSES = 2


class Distances(NamedTuple):
    """How far each image is from a boundary.

    Attributes:
        distances: RMS of the minimum-norm perturbation found; infinite where the boundary was never
            crossed, NaN where a value was infinite or NaN on the way. 0 says that the image needs no
            perturbation, and nothing else.
        first_ok: first step at which the boundary was crossed; the number of steps if it never was.
        crossed: whether it ever was.
        finite: no value was infinite or NaN on the way.
    """

    distances: Float[np.ndarray, " n"]
    first_ok: Int[np.ndarray, " n"]
    crossed: Bool[np.ndarray, " n"]
    finite: Bool[np.ndarray, " n"]

    @classmethod
    def found(
        cls,
        rms: Float[np.ndarray, " n"],
        first_ok: Int[np.ndarray, " n"],
        crossed: Bool[np.ndarray, " n"],
        finite: Bool[np.ndarray, " n"],
    ) -> "Distances":
        """Distances of what an attack found; whatever `rms` holds where it found nothing."""
        return cls(np.where(finite, np.where(crossed, rms, np.inf), np.nan), first_ok, crossed, finite)

    def measured(self) -> Bool[np.ndarray, " n"]:
        """Which images have a distance, neither infinite nor NaN."""
        return self.crossed & self.finite


class RobustnessCurve(NamedTuple):
    """Accuracy left when every image may be perturbed by so much, and the area under it.

    Attributes:
        perturbations: upper ends of 1000 equal bins, RMS on the images' scale; all 0 if no distance is
            above 0 and finite.
        accuracies: fraction of the images whose distance lies in a later bin, or was never crossed.
        area: ARA, the area between the curve and chance level. Infinite if a larger share of the images
            than chance was never crossed, for the curve then stays above chance level for ever, as far as
            was looked; NaN if there are no images.
        at_least: the area up to the largest finite distance; equal to `area` where that is finite.
        n_uncrossed: images with an infinite distance.
        n_left_out: images with a NaN distance; they count nowhere else.
    """

    perturbations: Float[np.ndarray, " bins"]
    accuracies: Float[np.ndarray, " bins"]
    area: float
    at_least: float
    n_uncrossed: int
    n_left_out: int


def robustness_curve(distances: DistancesLike, n_classes: SupportsIndex) -> RobustnessCurve:
    """Compute the accuracy-robustness area of distances.

    ARA = gap·Σ_bins max(0, 1 - C/n - 1/K), with 1000 bins of width gap on [0, max d] and C the count up to
    and including a bin; 0 if all distances are 0. An image that was never crossed (infinite distance) is one
    of the n, survives every perturbation, and does not move max d. While such images are no larger a share
    than 1/K, what lies beyond max d adds nothing, and the area is as exact as if they had been crossed;
    otherwise it has no end, and the attack must be made stronger to measure one.

    Args:
        distances: of the images; 0 for those misclassified to begin with, infinite for those never crossed.
            NaN distances are left out, and counted.
        n_classes: K, the network's.

    Returns:
        The curve and its area.

    Raises:
        UserError: a distance is negative, there is no list of them, or K is below 2.
    """
    try:
        d = np.asarray(distances, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"expected distances as numbers, got {type(distances).__name__}") from error
    if d.ndim != 1:
        raise UserError(f"expected a distance for each image, of shape (n,), got shape {d.shape}")
    if (d < 0).any():
        raise UserError(f"expected distances of at least 0, got {d.min():g}")
    k = operator.index(n_classes)
    if k < _FEWEST_CLASSES:
        raise UserError(f"expected at least {_FEWEST_CLASSES} classes, got {k}")
    known = d[~np.isnan(d)]
    crossed = known[np.isfinite(known)]
    n, n_uncrossed = len(known), len(known) - len(crossed)
    largest = crossed.max(initial=0.0)
    counts = np.histogram(crossed, bins=_BINS, range=(0, largest if largest > 0 else 1))[0]
    accuracies = 1 - counts.cumsum() / max(n, 1)
    gap = largest / _BINS
    at_least = float(gap * np.maximum(accuracies - 1 / k, 0).sum()) if n else math.nan
    area = math.inf if n_uncrossed * k > n else at_least
    return RobustnessCurve(gap * np.arange(1, _BINS + 1), accuracies, area, at_least, n_uncrossed, len(d) - n)


def minimum_norm_distances(
    logits_fn: LogitsFn,
    images: ImagesLike,
    labels: LabelsLike,
    attack: MinimumNormAttack = PUBLISHED_ATTACK,
    on_progress: Callable[[float], None] = lambda _: None,
    on_spared: Callable[[float], None] = lambda _: None,
) -> Iterator[tuple[Int[np.ndarray, " part"], Distances]]:
    """Measure the distances of images to a boundary, on all devices of this machine.

    An image that is over the boundary to begin with has distance 0, and nothing is smaller: it is
    answered from one evaluation, and only the others are attacked.

    Args:
        logits_fn: images to logits, for instance a `Classifier`; in evaluation mode.
        images: on the [0,1] scale. Where there are none, nothing is yielded.
        labels: true classes.
        attack: until one of the criteria in `KINDS`.
        on_progress: called with how many images' worth of work was just done; fractions add up.
        on_spared: called with how many images need no attack.

    Yields:
        Places of images and their distances, as chunks are finished.

    Raises:
        UserError: see `prepared`; when the first distances are asked for.
    """
    images, labels, _ = prepared(logits_fn, images, labels)
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
        zeros, crossed = np.zeros(len(settled), np.float32), ~inside[settled] & finite[settled]
        first_ok = np.where(crossed, 0, attack.steps).astype(np.int32)
        yield settled, Distances.found(zeros, first_ok, crossed, finite[settled])
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
        fields = (result.rms, result.first_ok, result.succeeded, result.finite)
        return Distances.found(*(np.asarray(field)[0, : len(places)] for field in fields))

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
