"""ARA: one number for accuracy and robustness together (docs/method.md, Accuracy-robustness area)."""

import functools
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from advx_jax.analysis.batches import gather, map_batches
from advx_jax.analysis.chunks import chunk_rows
from advx_jax.analysis.row_cost import row_bytes
from advx_jax.analysis.segments import result_of, run_in_segments
from advx_jax.analysis.soundness import prepared
from advx_jax.analysis.workers import Worker
from advx_jax.attacks.base import Attack, Model, as_attack, example_keys
from advx_jax.attacks.checks import ImagesLike, LabelsLike, number_of_classes
from advx_jax.attacks.criteria import Criterion, Misclassified, NoBetterThanRandom, are_numbers
from advx_jax.attacks.projections import Norm
from advx_jax.attacks.published import Published
from advx_jax.errors import UserError
from advx_jax.progress import call_progress

_PUBLISHED = Published()

KINDS: dict[str, Criterion] = {"attack": Misclassified(), "btr": NoBetterThanRandom()}
"""The paper's two: until misclassified, and until no better than random."""

_BINS = 1000
_FEWEST_CLASSES = 2


DistancesLike = Any
"""A distance for each image, as an array or a list of numbers."""


class Distances(NamedTuple):
    """How far each image is from a boundary.

    Attributes:
        distances: RMS of the minimum-norm perturbation found, or another norm where one is asked for; infinite where
            the boundary was never crossed, NaN where a logit was no number on the way (see `are_numbers`). 0 says that
            the image needs no perturbation, and nothing else.
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
    try:
        k = operator.index(n_classes)
    except TypeError as error:
        raise UserError(f"expected a whole number of classes, got {n_classes!r}") from error
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
    model: Model,
    images: Float[np.ndarray, "n *shape"],
    labels: Int[np.ndarray, " n"],
    attack: Attack = _PUBLISHED,
    keys: Key[Array, " n"] | None = None,
    on_progress: Callable[[float], None] = lambda _: None,
    on_spared: Callable[[float], None] = lambda _: None,
    rows: int | None = None,
    norm: Norm | None = None,
) -> Iterator[tuple[Int[np.ndarray, " part"], Distances]]:
    """Measure the distances of images to a boundary, on all devices of this machine.

    An image that is over the boundary to begin with has distance 0, and nothing is smaller: it is
    answered from one evaluation, and only the others are attacked.

    Args:
        model: images to logits, for instance a `Classifier`; in evaluation mode.
        images: as `prepared` gives them. Where there are none, nothing is yielded.
        labels: true classes, as `prepared` gives them.
        attack: a minimum-norm attack; its criterion says until when.
        keys: of each image's random draws, for an attack that draws.
        on_progress: called with how many images' worth of work was just done; fractions add up.
        on_spared: called with how many images need no attack.
        rows: images a chunk; by how many need an attack if None.
        norm: that the attack minimises, to tell distances in it; RMS if None.

    Yields:
        Places of images and their distances, as chunks are finished.

    Raises:
        UserError: the attack cannot work with the model; when the first distances are asked for.
    """
    if len(images) == 0:
        return
    n_classes = number_of_classes(model, images)
    attack.check(n_classes)
    keys = example_keys(None, jnp.arange(len(images))) if keys is None else keys

    needed, finite = needs_attack(model, images, labels, attack.criterion)
    # What is not finite at the start has no distance, and no attack would give it one.
    settled = np.flatnonzero(~needed | ~finite)
    if len(settled):
        zeros, crossed = np.zeros(len(settled), np.float32), ~needed[settled] & finite[settled]
        first_ok = np.where(crossed, 0, attack.n_steps).astype(np.int32)
        yield settled, Distances.found(zeros, first_ok, crossed, finite[settled])
        on_spared(len(settled))

    remaining = np.flatnonzero(needed & finite)
    if len(remaining) == 0:
        return
    key_data = np.asarray(jax.random.key_data(keys))

    def work(worker: Worker, count: int, x: Array, y: Array, key_data: Array) -> Distances:
        def on_steps(steps: int) -> None:
            on_progress(count * steps / attack.n_steps)

        results = []
        for part in attack.parts(n_classes):
            draws = part.keys(jax.random.wrap_key_data(key_data))
            state = run_in_segments(worker, part.attack, x, y, draws, on_steps, on_steps)
            results.append(result_of(worker, part.attack, x, y, state))
        result = functools.reduce(attack.join, results)
        size = result.rms if norm is None else result.norm
        return Distances.found(*map(np.asarray, (size, result.first_success, result.success, result.finite)))

    arrays = images[remaining], labels[remaining], key_data[remaining]
    rows = chunk_rows(len(remaining), row_bytes(model, images, attack)) if rows is None else rows
    for places, found in map_batches(model, arrays, work, rows):
        yield remaining[places], found


def boundary_distances(
    model: Model,
    images: ImagesLike,
    labels: LabelsLike,
    attack: Attack = _PUBLISHED,
    key: Key[Array, "..."] | None = None,
    on_progress: Callable[[float], None] = lambda _: None,
    progress: bool | None = None,
) -> Float[np.ndarray, " n"]:
    """Distance of each image to a boundary of the model: the RMS of the smallest perturbation found.

    Args:
        model: images to logits, in evaluation mode.
        images: on the [0,1] scale.
        labels: true classes.
        attack: a minimum-norm attack; its criterion says which boundary. Every attack finds upper bounds.
        key: of random draws, folded with each image's place; or a key for each image.
        on_progress: called with how many images' worth of work was just done; fractions add up.
        progress: show a bar; None for in a notebook only.

    Returns:
        RMS over all values of an image; 0 where it needs no perturbation, infinite where the boundary was never
        crossed, NaN where a logit was NaN or infinite.

    Raises:
        UserError: model, images, labels or attack are none to work with.
    """
    as_attack(attack)
    x, y, _ = prepared(model, images, labels)
    found = np.full(len(x), np.nan, np.float32)
    keys = example_keys(key, jnp.arange(len(x)))
    with call_progress(len(x), "distances", progress, on_progress) as update:
        spare = functools.partial(update, spared=True)
        for places, part in minimum_norm_distances(model, x, y, attack, keys, update, spare):
            found[places] = part.distances
    return found


def accuracy_robustness_area(distances: DistancesLike, n_classes: SupportsIndex) -> float:
    """ARA, the area between the curve of accuracy against perturbation and chance level; see `robustness_curve`.

    Args:
        distances: as `boundary_distances` gives them.
        n_classes: K, the model's.

    Returns:
        The area, in RMS; infinite if more images than chance level were never crossed.

    Raises:
        UserError: see `robustness_curve`.
    """
    return robustness_curve(distances, n_classes).area


def needs_attack(
    model: Model,
    images: Float[np.ndarray, "n *shape"],
    labels: Int[np.ndarray, " n"],
    criterion: Criterion,
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Which unperturbed images are not over the boundary, and of which the logits are numbers."""

    def work(worker: Worker, count: int, x: Array, y: Array) -> tuple[Array, Array]:
        del count
        found: tuple[Array, Array] = worker.call(_needs_attack, worker.model, criterion, x, y)
        return found

    rows = chunk_rows(len(images), row_bytes(model, images))
    needed, finite = gather(len(images), map_batches(model, (images, labels), work, rows))
    return needed, finite


@functools.partial(jax.jit, static_argnames=("criterion",))
def _needs_attack(
    model: Model,
    criterion: Criterion,
    images: Float[Array, "batch *shape"],
    labels: Int[Array, " batch"],
) -> tuple[Bool[Array, " batch"], Bool[Array, " batch"]]:
    logits = model(images)
    return ~criterion.success(logits, labels), are_numbers(logits, labels)
