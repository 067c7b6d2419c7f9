"""Accuracy that attacks with a fixed epsilon leave: each attack only on the images that are still robust."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from advx_jax.analysis.batches import gather, map_batches
from advx_jax.analysis.chunks import chunk_rows
from advx_jax.analysis.row_cost import row_bytes
from advx_jax.analysis.segments import result_of, run_in_segments
from advx_jax.analysis.soundness import differing_rows, leading_scale, like_a_softmaxs, prepared
from advx_jax.analysis.workers import Worker
from advx_jax.attacks.arrays import Keys
from advx_jax.attacks.base import Attack, Model, Part, as_attack, as_key, example_keys
from advx_jax.attacks.checks import ImagesLike, LabelsLike
from advx_jax.attacks.criteria import are_numbers, clearly_met, is_met
from advx_jax.attacks.eot import ACCURACY, ACCURACY_AGAIN, TRANSFER, judge, network_keys
from advx_jax.attacks.fixed_epsilon import FixedEpsilon
from advx_jax.attacks.losses import CLASSES_NEEDED, LossName, loss_and_gradient
from advx_jax.attacks.minimum_norm import MinimumNorm
from advx_jax.attacks.passes import steps_cost
from advx_jax.attacks.projections import size
from advx_jax.attacks.published import Published
from advx_jax.errors import UserError
from advx_jax.networks.random_classifier import RandomClassifier, at_some_draw
from advx_jax.progress import call_progress

# As in AutoAttack's own checks: how much logits of two passes may differ, relative to their size.
_RANDOM_ABOVE = 1e-4


class SanityChecks(NamedTuple):
    """What a network says of unperturbed images, and what would make attacks on it misleading.

    Attributes:
        correct: the label has the largest logit; in one draw of a random network, as is all that follows.
        finite: no logit is NaN or infinite, but that of a masked class; see `are_numbers`.
        flat: the gradient of the cross-entropy or of DLR is exactly 0.
        random: a second pass, of a random network with another draw, gave other logits.
        normalised: the logits look like a softmax's output.
    """

    correct: Bool[np.ndarray, " n"]
    finite: Bool[np.ndarray, " n"]
    flat: Bool[np.ndarray, " n"]
    random: Bool[np.ndarray, " n"]
    normalised: Bool[np.ndarray, " n"]


class AttackedImages(NamedTuple):
    """What became of images under one attack.

    Attributes:
        success: an image within the ball was found that meets the criterion, also in another evaluation; of a random
            network with the draw that decides, see `attacks.eot`.
        predicted: the class that it is taken for; of the unperturbed image where there is none.
        norm: how far it is from the unperturbed one, in the attack's norm; infinite where there is none.
        adversarial: it itself.
        finite: no logit was infinite or NaN on the way; otherwise the attack may have lost its way.
    """

    success: Bool[np.ndarray | Array, " n"]
    predicted: Int[np.ndarray | Array, " n"]
    norm: Float[np.ndarray | Array, " n"]
    adversarial: Float[np.ndarray | Array, "n *shape"]
    finite: Bool[np.ndarray | Array, " n"]


def sanity_checks(
    model: Model,
    images: Float[np.ndarray, "n *shape"],
    labels: Int[np.ndarray, " n"],
    rows: int | None = None,
    indices: Int[np.ndarray, " n"] | None = None,
    key: Key[Array, "..."] | None = None,
) -> SanityChecks:
    """Classify unperturbed images and make AutoAttack's checks on them, on all devices of this machine.

    Args:
        model: images to logits, for instance a `Classifier`; in evaluation mode.
        images: as `prepared` gives them; there may be none.
        labels: true classes, as `prepared` gives them.
        rows: images a chunk; by how many there are if None.
        indices: of the images in their data set, from which draws of a random network come; their places if None.
        key: of those draws, or a key for each image that indices count; `jax.random.key(0)` if None.
    """
    if len(images) == 0:
        return SanityChecks(*(np.zeros(0, bool) for _ in SanityChecks._fields))

    def work(worker: Worker, count: int, x: Array, y: Array, indices: Array) -> SanityChecks:
        del count
        keys = _keys_of(key, indices)
        logits, flat = jax.device_get(worker.call(_logits_and_flat, _at_draw(worker.model, keys, ACCURACY), x, y))
        again = jax.device_get(worker.call(_logits, _at_draw(worker.model, keys, ACCURACY_AGAIN), x))
        # What bfloat16 has no sums for, float64 holds exactly.
        logits, again = logits.astype(np.float64), again.astype(np.float64)
        differs = differing_rows(logits, again, leading_scale(logits), _RANDOM_ABOVE)
        finite = np.asarray(are_numbers(jnp.asarray(logits, jnp.float32), y))
        return SanityChecks(
            correct=(logits.argmax(-1) == np.asarray(y)) & finite,
            finite=finite,
            flat=flat & finite,
            random=differs,
            normalised=like_a_softmaxs(logits),
        )

    rows = rows or chunk_rows(len(images), row_bytes(at_some_draw(model), images, _unlabelled))
    indices = np.arange(len(images)) if indices is None else indices
    whole: SanityChecks = gather(len(images), map_batches(model, (images, labels, indices), work, rows))
    return whole


def run_attack(
    model: Model,
    images: Float[np.ndarray, "n *shape"],
    labels: Int[np.ndarray, " n"],
    indices: Int[np.ndarray, " n"],
    part: Part,
    key: Key[Array, "..."],
    rows: int,
    on_progress: Callable[[float], None] = lambda _: None,
    on_spared: Callable[[float], None] = lambda _: None,
) -> Iterator[tuple[Int[np.ndarray, " part"], AttackedImages]]:
    """Run one attack on images that are still robust, on all devices of this machine.

    Args:
        model: images to logits, for instance a `Classifier`.
        images: as `prepared` gives them.
        labels: true classes, all of them predicted on the unperturbed images.
        indices: of the images in their data set, from which their random draws come.
        part: the attack, and its place in the ensemble, for its draws; one that can work with the model.
        key: of all draws, or a key for each image that indices count.
        rows: images a chunk; see `chunk_rows`.
        on_progress: called with how many images' worth of work was just done; fractions add up.
        on_spared: called in the same way with work that is not needed, because all images of a chunk are broken.

    Yields:
        Places of images and what became of them, as chunks are finished.
    """
    if len(images) == 0:
        return
    attack = part.attack

    def work(worker: Worker, count: int, x: Array, y: Array, indices: Array) -> AttackedImages:
        keys = part.keys(_keys_of(key, indices))
        share = count / attack.n_steps
        state = run_in_segments(
            worker, attack, x, y, keys, lambda steps: on_progress(share * steps), lambda steps: on_spared(share * steps)
        )
        result = result_of(worker, attack, x, y, state)
        logits, met = worker.call(_verify, attack, worker.model, result.adversarial, y, keys)
        success = np.asarray(result.success & met)
        norm = np.where(success, result.norm, np.inf)
        predicted = np.asarray(logits).argmax(-1)
        return AttackedImages(success, predicted, norm, np.asarray(result.adversarial), np.asarray(result.finite))

    yield from map_batches(model, (images, labels, indices), work, rows)


def transferred(
    model: Model,
    images: Float[np.ndarray, "n *shape"],
    labels: Int[np.ndarray, " n"],
    candidates: Float[np.ndarray, "n *shape"],
    indices: Int[np.ndarray, " n"],
    ball: FixedEpsilon,
    key: Key[Array, "..."],
    rows: int,
) -> AttackedImages:
    """Look whether images that were broken elsewhere, on another network or within another ball, are so here.

    Args:
        model: images to logits.
        images: as `prepared` gives them; at least one.
        labels: true classes.
        candidates: the broken images; they are brought to the nearest points in the ball and in [0,1].
        indices: of the images in their data set, from which draws of a random network come.
        ball: an attack, for its ball and criterion.
        key: of those draws, or a key for each image that indices count.
        rows: images a chunk.
    """

    def work(worker: Worker, count: int, x: Array, y: Array, points: Array, indices: Array) -> AttackedImages:
        del count
        at_draw = _at_draw(worker.model, _keys_of(key, indices), TRANSFER)
        found: AttackedImages = worker.call(_transferred, ball, at_draw, x, y, points)
        return found

    whole: AttackedImages = gather(len(images), map_batches(model, (images, labels, candidates, indices), work, rows))
    return whole


def robust_accuracy(
    model: Model,
    images: ImagesLike,
    labels: LabelsLike,
    attack: Attack,
    key: Key[Array, "..."] | None = None,
    on_progress: Callable[[float], None] = lambda _: None,
    progress: bool | None = None,
) -> float:
    """Fraction of images that the model still classifies right when an attack may change each of them.

    Images misclassified to begin with count as broken. The parts of an ensemble attack only those still robust.

    Of a random network one draw says which images are misclassified to begin with, and each part of an attack breaks
    those that one more draw misclassifies where the part led to, see `APGD`. So the fraction is one of draws: another
    key gives another one.

    Args:
        model: images to logits, in evaluation mode; or a random network (`from_random_function`), with
            `AutoAttack(version="rand")` or `APGD`.
        images: on the [0,1] scale.
        labels: true classes.
        attack: with a fixed epsilon, for instance `AutoAttack(eps=0.5, norm="L2")`.
        key: of random draws, folded with each image's place; or a key for each image. `jax.random.key(0)` if None.
        on_progress: called with how many images' worth of work was just done or spared; fractions add up.
        progress: show a bar; None for in a notebook only.

    Returns:
        The fraction; NaN if there are no images.

    Raises:
        UserError: model, images, labels or attack are none to work with.
    """
    if any(isinstance(part.attack, MinimumNorm | Published) for part in as_attack(attack).parts()):
        raise UserError(
            f"expected an attack within an eps for a robust accuracy, got {attack.name}: see boundary_distances"
        )
    if attack.criterion.towards_label:
        raise UserError(
            f"expected a criterion that leads away from labels for a robust accuracy, got {attack.criterion}"
        )
    x, y, n_classes = prepared(at_some_draw(model) if attack.takes_random else model, images, labels)
    if len(x) == 0:
        return float("nan")
    attack.check(n_classes)
    draws = as_key(key)
    # Keys of images are counted before any of them is chosen.
    draws = example_keys(draws, jnp.arange(len(x))) if draws.ndim else draws
    is_robust = sanity_checks(model, x, y, key=draws).correct
    parts, cost = attack.parts(n_classes), row_bytes(model, x, attack)
    steps = [steps_cost(part.attack, n_classes, x.shape[1:]) for part in parts]
    with call_progress(len(x), "robust accuracy", progress, on_progress) as update:
        update(float((~is_robust).sum()), spared=True)
        for place, part in enumerate(parts):
            share = steps[place] / sum(steps)
            left = np.flatnonzero(is_robust)
            if len(left) == 0:
                break

            def advanced(done: float, share: float = share, spared: bool = False) -> None:
                update(share * done, spared=spared)

            rows, spare = chunk_rows(len(left), cost), functools.partial(advanced, spared=True)
            for places, found in run_attack(model, x[left], y[left], left, part, draws, rows, advanced, spare):
                is_robust[left[places[found.success]]] = False
                update(float(found.success.sum()) * sum(steps[place + 1 :]) / sum(steps), spared=True)
    return float(is_robust.mean())


def _keys_of(key: Key[Array, "..."] | None, indices: Int[Array, " n"]) -> Keys:
    """Of a key for all those that are folded with the indices; of a key for each image those at the indices."""
    key = as_key(key)
    return key[indices] if key.ndim else example_keys(key, indices)


def _at_draw(model: Model, keys: Keys, what: int) -> Model:
    """A random network with what it draws for this; any other as it is, for which no keys are made."""
    return model.drawn(_network_keys(keys, what)) if isinstance(model, RandomClassifier) else model


@functools.partial(jax.jit, static_argnums=1)
def _network_keys(keys: Keys, what: int) -> Keys:
    return network_keys(keys, what)


@jax.jit
def _logits(model: Model, images: Array) -> Float[Array, "batch classes"]:
    return model(images)


@jax.jit
def _logits_and_flat(model: Model, images: Array, labels: Array) -> tuple[Float[Array, "batch classes"], Array]:
    n_classes = jax.eval_shape(model, images).shape[-1]
    names: list[LossName] = ["cross_entropy", "dlr"] if n_classes >= CLASSES_NEEDED["dlr"] else ["cross_entropy"]
    flat = jnp.zeros(labels.shape, bool)
    for name in names:
        _, gradient, logits = loss_and_gradient(name, model, images, labels, labels)
        flat |= (gradient == 0).all(tuple(range(1, images.ndim)))
    return logits, flat


def _unlabelled(model: Model, images: Array) -> Any:
    return _logits_and_flat(model, images, jnp.zeros(len(images), jnp.int32))


@jax.jit
def _transferred(ball: FixedEpsilon, model: Model, images: Array, labels: Array, candidates: Array) -> AttackedImages:
    points = ball.project(images, candidates)
    logits = model(points)
    success = clearly_met(ball.criterion, logits, labels)
    norm = jnp.where(success, size(ball.norm, points - images), jnp.inf)
    return AttackedImages(success, logits.argmax(-1), norm, points, are_numbers(logits, labels))


@jax.jit
def _verify(attack: Attack, model: Model, images: Array, labels: Array, keys: Keys) -> tuple[Array, Array]:
    logits = judge(model, keys)(images)
    return logits, is_met(attack.criterion, logits, labels)
