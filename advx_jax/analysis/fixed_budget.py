"""Attacks with a fixed budget on many images: chunks, devices, and what to think of the network before."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from advx_jax.analysis.segments import segment_lengths
from advx_jax.analysis.soundness import differing_rows, leading_scale, prepared
from advx_jax.analysis.workers import Worker, chunk_rows, lanes, least_rows, pad, spread
from advx_jax.attacks.autoattack import Stage, stage_targets
from advx_jax.attacks.budget import Budget, example_keys
from advx_jax.attacks.checks import ImagesLike, LabelsLike, checked_indices
from advx_jax.attacks.loop import LogitsFn
from advx_jax.attacks.losses import LossName, climb
from advx_jax.attacks.projections import size
from advx_jax.errors import UserError

# As in AutoAttack's own checks: how much logits of two passes may differ, relative to their size, and how near to 1
# the outputs of a softmax sum up.
_RANDOM_ABOVE, _SUMS_TO_ONE = 1e-4, 1e-5
# DLR needs three classes, its targeted form four.
_DLR_CLASSES, _TARGETED_DLR_CLASSES = 3, 4


class FirstLook(NamedTuple):
    """What a network says of unperturbed images, and what would make attacks on it misleading.

    Attributes:
        correct: the label has the largest logit.
        finite: no logit is infinite or NaN.
        flat: the gradient of the cross-entropy or of DLR is exactly 0.
        random: a second pass gave other logits.
        normalised: the logits look like a softmax's output.
    """

    correct: Bool[np.ndarray, " n"]
    finite: Bool[np.ndarray, " n"]
    flat: Bool[np.ndarray, " n"]
    random: Bool[np.ndarray, " n"]
    normalised: Bool[np.ndarray, " n"]


class Attacked(NamedTuple):
    """What one run of an attack did to images.

    Attributes:
        broken: a misclassified image within the budget was found, and is misclassified when looked at again.
        predicted: the class that it is taken for; of the unperturbed image where there is none.
        distance: how far it is from the unperturbed one, in the budget's norm; infinite where there is none.
        adversarial: it itself.
        finite: no logit was infinite or NaN on the way; otherwise the attack may have lost its way.
    """

    broken: Bool[np.ndarray, " n"]
    predicted: Int[np.ndarray, " n"]
    distance: Float[np.ndarray, " n"]
    adversarial: Float[np.ndarray, "n *shape"]
    finite: Bool[np.ndarray, " n"]


def check_stages(stages: tuple[Stage, ...], n_classes: int) -> None:
    """Refuse attacks that a network has too few classes for.

    Raises:
        UserError: the attack is named.
    """
    for stage in stages:
        needed = {"apgd-t": _TARGETED_DLR_CLASSES, "apgd-dlr": _DLR_CLASSES}.get(stage.name, 2)
        if n_classes < needed:
            raise UserError(f"expected a network of at least {needed} classes for {stage.name}, got {n_classes}")


def n_runs(stage: Stage, n_classes: int) -> int:
    """How often an attack runs on an image: for each target, so often as it is restarted."""
    return stage.restarts * (min(stage.n_targets, n_classes - 1) if stage.n_targets else 1)


def first_look(logits_fn: LogitsFn, images: ImagesLike, labels: LabelsLike, rows: int | None = None) -> FirstLook:
    """Classify unperturbed images and make AutoAttack's checks on them, on all devices of this machine.

    Args:
        logits_fn: images to logits, for instance a `Classifier`; in evaluation mode. It may be random, which is
            told for each image.
        images: on the [0,1] scale; there may be none.
        labels: true classes.
        rows: images a chunk; by how many there are if None.

    Raises:
        UserError: see `prepared`.
    """
    images, labels, _ = prepared(logits_fn, images, labels, may_be_random=True)
    rows = chunk_rows(len(images)) if rows is None else rows
    fields = [np.zeros(len(images), bool) for _ in FirstLook._fields]

    def work(worker: Worker, begin: int) -> FirstLook:
        part = slice(begin, begin + rows)
        x, y = worker.put(pad(images[part], rows)), worker.put(pad(labels[part], rows))
        logits, flat = jax.device_get(worker.call(_look, worker.logits_fn, x, y))
        again = jax.device_get(worker.call(_logits, worker.logits_fn, x))
        # What bfloat16 has no sums for, float64 holds exactly.
        logits, again = logits.astype(np.float64), again.astype(np.float64)
        differs = differing_rows(logits, again, leading_scale(logits), _RANDOM_ABOVE)
        in_range = (logits > -_SUMS_TO_ONE).all(-1) & (logits < 1 + _SUMS_TO_ONE).all(-1)
        finite = np.isfinite(logits).all(-1)
        return FirstLook(
            correct=(logits.argmax(-1) == y) & finite,
            finite=finite,
            flat=flat & finite,
            random=differs,
            normalised=in_range & (np.abs(np.where(in_range[:, None], logits, 0).sum(-1) - 1) < _SUMS_TO_ONE),
        )

    for begin, found in spread(logits_fn, range(0, len(images), rows), work):
        part = slice(begin, min(begin + rows, len(images)))
        for field, values in zip(fields, found, strict=True):
            field[part] = values[: part.stop - begin]
    return FirstLook(*fields)


def attack_standing(
    logits_fn: LogitsFn,
    images: ImagesLike,
    labels: LabelsLike,
    indices: LabelsLike,
    stage: Stage,
    number: int,
    run: int,
    budget: Budget,
    seed: int,
    rows: int,
    on_progress: Callable[[float], None] = lambda _: None,
    on_spared: Callable[[float], None] = lambda _: None,
) -> Iterator[tuple[Int[np.ndarray, " part"], Attacked]]:
    """Run an attack once on images that still stand, on all devices of this machine.

    Args:
        logits_fn: images to logits, for instance a `Classifier`.
        images: on the [0,1] scale.
        labels: true classes, all of them predicted on the unperturbed images.
        indices: of the images in their data set, from which their random draws come.
        stage: the attack.
        number: its place among the attacks, for its draws.
        run: which of its runs: which target.
        budget: its steps are the stage's.
        seed: of all draws.
        rows: images a chunk; see `good_rows`.
        on_progress: called with how many images' worth of work was just done; fractions add up.
        on_spared: called in the same way with work that is not needed, because all images of a chunk are broken.

    Yields:
        Places of images and what became of them, as chunks are finished.

    Raises:
        UserError: see `prepared`; the attack needs more classes or has no such run; when the first images are
            asked for.
    """
    images, labels, n_classes = prepared(logits_fn, images, labels, may_be_random=True)
    if len(images) == 0:
        return
    check_stages((stage,), n_classes)
    if not 0 <= run < n_runs(stage, n_classes):
        raise UserError(f"expected a run from 0 to {n_runs(stage, n_classes) - 1} of {stage.name}, got {run}")
    if rows < 1:
        raise UserError(f"expected at least 1 row a chunk, got {rows}")
    indices = np.asarray(checked_indices(indices, len(images)))

    def work(worker: Worker, begin: int) -> Attacked:
        part = slice(begin, begin + rows)
        count = len(labels[part])
        x, y = worker.put(pad(images[part], rows)), worker.put(pad(labels[part], rows))
        origin = worker.put(pad(indices[part], rows))
        draws = np.array([seed, number, run], np.uint32)
        state, targets = worker.call(_start, worker.logits_fn, stage, x, y, origin, budget, worker.put(draws))
        left = stage.steps
        for steps in segment_lengths(stage.steps):
            state = worker.call(_advance, worker.logits_fn, stage.method, x, y, targets, budget, state, steps)
            left -= steps
            on_progress(count * steps / stage.steps)
            if stage.method.freezes and bool(state.found.broken.all()):
                on_spared(count * left / stage.steps)
                break
        found = state.found
        predicted = jax.device_get(worker.call(_logits, worker.logits_fn, found.adversarial)).argmax(-1)
        broken = np.asarray(found.broken) & (predicted != np.asarray(y))
        distance = np.where(broken, worker.call(_distance, budget, x, found.adversarial), np.inf)
        fields = (broken, predicted, distance, found.adversarial, found.finite)
        return Attacked(*(np.asarray(field)[:count] for field in fields))

    for begin, attacked in spread(logits_fn, range(0, len(images), rows), work):
        yield np.arange(begin, min(begin + rows, len(images))), attacked


def good_rows(standing: int, total: int) -> int:
    """Images a chunk: as for all of them, or a quarter as long as that still holds those left.

    Few sizes, because the attacks are compiled for each.
    """
    rows = chunk_rows(total)
    while (smaller := max(-(-rows // 4), least_rows())) < rows and smaller * len(lanes()) >= standing:
        rows = smaller
    return rows


@jax.jit
def _logits(logits_fn: LogitsFn, images: Array) -> Float[Array, "batch classes"]:
    return logits_fn(images)


@jax.jit
def _look(logits_fn: LogitsFn, images: Array, labels: Array) -> tuple[Float[Array, "batch classes"], Array]:
    n_classes = jax.eval_shape(logits_fn, images).shape[-1]
    names: list[LossName] = ["cross_entropy", "dlr"] if n_classes >= _DLR_CLASSES else ["cross_entropy"]
    flat = jnp.zeros(labels.shape, bool)
    for name in names:
        _, gradient, logits = climb(name, logits_fn, images, labels, labels)
        flat |= (gradient == 0).all(tuple(range(1, images.ndim)))
    return logits, flat


@functools.partial(jax.jit, static_argnames=("stage",))
def _start(
    logits_fn: LogitsFn,
    stage: Stage,
    images: Array,
    labels: Array,
    indices: Array,
    budget: Budget,
    draws: UInt32[Array, "3"],
) -> tuple[Any, Int[Array, " batch"]]:
    seed, number, run = draws
    key = jax.random.fold_in(jax.random.key(seed), number)
    targets = stage_targets(stage, logits_fn(images), labels)[run] if stage.n_targets else labels
    keys = example_keys(key, indices, run)
    return stage.method.start(logits_fn, images, labels, targets, budget, keys), targets


@functools.partial(jax.jit, static_argnames=("method", "n_steps"))
def _advance(
    logits_fn: LogitsFn,
    method: Any,
    images: Array,
    labels: Array,
    targets: Array,
    budget: Budget,
    state: Any,
    n_steps: int,
) -> Any:
    return method.advance(logits_fn, images, labels, targets, budget, state, n_steps)


@jax.jit
def _distance(budget: Budget, images: Array, adversarial: Array) -> Float[Array, " batch"]:
    return size(budget.norm, adversarial - images)
