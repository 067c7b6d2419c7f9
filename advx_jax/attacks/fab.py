"""FAB, the fast adaptive boundary attack: walk along the linearised boundary, close to the image.

From "Minimally distorted adversarial examples with a fast adaptive boundary attack" (Croce and Hein 2020,
arXiv 1907.02044). It looks for the NEAREST misclassified image; an image counts as broken if that one lies
within the budget.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

from advx_jax.attacks.budget import Budget, Found, Method, check, check_runs, nothing_found
from advx_jax.attacks.criteria import UNTIL_MISCLASSIFIED, clearly_met, is_met
from advx_jax.attacks.loop import LogitsFn
from advx_jax.attacks.losses import likeliest_targets
from advx_jax.attacks.norms import per_example
from advx_jax.attacks.projections import Norm, dual_size, linf_norm, size

# The paper's α_max, η and β: how much of a step may start from the image itself, how far steps go
# beyond the linearised boundary, and how much of the way an adversarial point keeps.
_LARGEST_BIAS, _OVERSHOOT, _KEPT = 0.1, 1.05, 0.9
_TINY, _SHORTEST = 1e-12, 1e-8


class FABState(NamedTuple):
    """State between two steps.

    Attributes:
        iterate: the point to step from.
        nearest: the nearest misclassified point so far; the image itself if there was none.
        distance: how far it is, in the budget's norm; infinite if there was none.
        found: what of this lies within the budget.
    """

    iterate: Float[Array, "batch *shape"]
    nearest: Float[Array, "batch *shape"]
    distance: Float[Array, " batch"]
    found: Found


class FABResult(NamedTuple):
    """The nearest misclassified points that FAB found, whether or not within a budget.

    Attributes:
        adversarial: that point; the unperturbed image if there was none.
        distance: how far it is, in the norm; infinite if there was none.
        found: what of this lies within the budget.
    """

    adversarial: Float[Array, "batch *shape"]
    distance: Float[Array, " batch"]
    found: Found


def start(
    targeted: bool,
    logits_fn: LogitsFn,
    images: Float[Array, "batch *shape"],
    labels: Int[Array, " batch"],
    targets: Int[Array, " batch"],
    budget: Budget,
    keys: Key[Array, " batch"],
) -> FABState:
    """State before the first step, at the images themselves; there is nothing random in it."""
    del targeted, logits_fn, labels, targets, budget, keys
    return FABState(images, images, jnp.full(images.shape[0], jnp.inf, images.dtype), nothing_found(images))


def advance(
    targeted: bool,
    logits_fn: LogitsFn,
    images: Float[Array, "batch *shape"],
    labels: Int[Array, " batch"],
    targets: Int[Array, " batch"],
    budget: Budget,
    state: FABState,
    n_steps: int,
) -> FABState:
    """Make `n_steps` of the budget's steps."""
    norm = budget.norm

    def step(state: FABState, _: None) -> tuple[FABState, None]:
        here = state.iterate
        if targeted:
            gap, normal = _towards_target(logits_fn, here, labels, targets)
        else:
            gap, normal = _towards_nearest(norm, logits_fn, here, labels)
        offset = (normal * (here - images)).sum(tuple(range(1, images.ndim)))
        along = to_hyperplane(norm, here, normal, gap, budget.stay_in_range)
        afresh = to_hyperplane(norm, images, normal, gap - offset, budget.stay_in_range)
        length, length_afresh = (jnp.maximum(size(norm, d), _SHORTEST) for d in (along, afresh))
        bias = per_example(jnp.minimum(length / (length + length_afresh), _LARGEST_BIAS), images)
        new = (1 - bias) * (here + _OVERSHOOT * along) + bias * (images + _OVERSHOOT * afresh)
        if budget.stay_in_range:
            new = jnp.clip(new, 0, 1)

        logits = logits_fn(new)
        finite = jnp.isfinite(logits).all(-1)
        across = is_met(UNTIL_MISCLASSIFIED, logits, labels)
        distance = size(norm, new - images)
        nearer = clearly_met(UNTIL_MISCLASSIFIED, logits, labels) & (distance < state.distance)
        nearest = jnp.where(per_example(nearer, new), new, state.nearest)
        distance = jnp.where(nearer, distance, state.distance)
        broken = distance <= budget.eps
        adversarial = jnp.where(per_example(broken, images), nearest, images)
        return FABState(
            iterate=jnp.where(per_example(across, new), images + _KEPT * (new - images), new),
            nearest=nearest,
            distance=distance,
            found=Found(adversarial, broken, state.found.finite & finite),
        ), None

    return lax.scan(step, state, length=n_steps)[0]


# The nearest point may still get nearer after it is within the budget.
FAB = Method(functools.partial(start, False), functools.partial(advance, False), freezes=False)
FAB_T = Method(functools.partial(start, True), functools.partial(advance, True), freezes=False)


def fab_attack(
    logits_fn: LogitsFn, images: Float[Array, "batch *shape"], labels: Int[Array, " batch"], budget: Budget
) -> FABResult:
    """FAB towards the nearest of all classes in each step; that takes the gradients of all logits.

    Args:
        logits_fn: images to logits, for instance a `Classifier`.
        images: x, on the [0,1] scale.
        labels: true classes; an image misclassified to begin with has distance 0.
        budget: norm, steps, and the eps up to which an image counts as broken.

    Raises:
        UserError: shapes do not fit, or the budget is none.
    """
    return _nearest(FAB, logits_fn, images, labels, labels[None], budget)


def targeted_fab_attack(
    logits_fn: LogitsFn,
    images: Float[Array, "batch *shape"],
    labels: Int[Array, " batch"],
    budget: Budget,
    n_targets: int = 9,
) -> FABResult:
    """FAB-T: towards the likeliest other classes one after another, with one gradient a step.

    Arguments as `fab_attack`; `n_targets` is how many classes to go to.
    """
    check(images, labels, budget)
    targets = likeliest_targets(logits_fn(images), labels, n_targets)
    return _nearest(FAB_T, logits_fn, images, labels, targets, budget)


def to_hyperplane(
    norm: Norm,
    points: Float[Array, "batch *shape"],
    normal: Float[Array, "batch *shape"],
    gap: Float[Array, " batch"],
    stay_in_range: bool,
) -> Float[Array, "batch *shape"]:
    """The shortest d with gap + ⟨normal, d⟩ = 0 and points + d in [0,1]; as far as the box goes if there is none.

    Both norms have a solution of the form d_i = ±min(λ·v_i, room_i), with v = |normal| for L2 and 1 for
    L∞; λ solves an equation that is linear between the values at which a pixel reaches its end of the box.

    Args:
        norm: in which d is short.
        points: in [0,1], if they have to stay there.
        normal: of the hyperplane.
        gap: its function's value at the points.
        stay_in_range: keep points + d in [0,1].
    """
    # The hyperplane is the same at any scale of its function; at this one no square underflows.
    scale = linf_norm(normal)
    scale = jnp.where((scale > 0) & jnp.isfinite(scale), scale, 1)
    normal, gap = normal / per_example(scale, normal), gap / scale
    flat, w = points.reshape(len(points), -1), normal.reshape(len(points), -1)
    sign = -jnp.sign(gap)[:, None] * jnp.sign(w)
    steepness = jnp.abs(w)
    speed = jnp.where(steepness > 0, steepness if norm == "L2" else 1, 0)
    wanted = jnp.abs(gap)
    slope = steepness * speed
    if not stay_in_range:
        total = slope.sum(1)
        pace = jnp.where(total > 0, wanted / jnp.where(total > 0, total, 1), 0)
        return (sign * pace[:, None] * speed).reshape(points.shape)

    room = jnp.where(sign > 0, 1 - flat, flat)
    ends = jnp.where(speed > 0, room / jnp.where(speed > 0, speed, 1), jnp.inf)

    def paces(pace: Array) -> Array:
        """The λ that would do if no more pixels reached their ends than do by this one."""
        at_end = ends <= pace[:, None]
        missing = wanted - jnp.where(at_end, steepness * room, 0).sum(1)
        moving = jnp.where(at_end, 0, slope).sum(1)
        return jnp.where(moving > 0, missing / jnp.where(moving > 0, moving, 1), jnp.inf)

    # Newton's method from below: the sum is concave in λ, so that no step goes too far, and each but the last has
    # more pixels at their ends. Sorting the ends needs no loop, but takes 17 times as long on a CPU.
    start = jnp.zeros_like(wanted)
    _, pace = lax.while_loop(
        lambda state: (state[1] > state[0]).any(),
        lambda state: (state[1], jnp.maximum(state[1], paces(state[1]))),
        (start, paces(start)),
    )
    moved = jnp.minimum(jnp.where(speed > 0, pace[:, None] * jnp.where(speed > 0, speed, 1), 0), room)
    return (sign * jnp.maximum(moved, 0)).reshape(points.shape)


def _towards_target(
    logits_fn: LogitsFn, points: Array, labels: Array, targets: Array
) -> tuple[Float[Array, " batch"], Float[Array, "batch *shape"]]:
    """z_t - z_y and its gradient: a hyperplane where both logits are equal."""

    def total(points: Array) -> tuple[Array, Array]:
        logits = logits_fn(points)
        rows = jnp.arange(len(labels))
        gap = logits[rows, targets] - logits[rows, labels]
        return gap.sum(), gap

    normal, gap = jax.grad(total, has_aux=True)(points)
    return gap, normal


def _towards_nearest(
    norm: Norm, logits_fn: LogitsFn, points: Array, labels: Array
) -> tuple[Float[Array, " batch"], Float[Array, "batch *shape"]]:
    """The hyperplane that is nearest in the norm, of those between the label and each other class."""
    rows = jnp.arange(len(labels))

    def gaps(points: Array) -> Array:
        logits = logits_fn(points)
        return logits - logits[rows, labels][:, None]

    values, pull = jax.vjp(gaps, points)
    n_classes = values.shape[-1]

    def gradient(chosen: Array) -> Array:
        return pull(jnp.broadcast_to(chosen, values.shape))[0]

    normals = jax.vmap(gradient)(jnp.eye(n_classes, dtype=values.dtype))
    # Distances are measured in the norm, so slopes in its dual.
    dual = jax.vmap(functools.partial(dual_size, norm))(normals)
    own = jnp.arange(n_classes)[None] == labels[:, None]
    distances = jnp.where(own, jnp.inf, jnp.abs(values) / (dual.T + _TINY))
    nearest = distances.argmin(-1)
    return values[rows, nearest], normals[nearest, rows]


def _nearest(
    method: Method, logits_fn: LogitsFn, images: Array, labels: Array, targets: Int[Array, "runs batch"], budget: Budget
) -> FABResult:
    check(images, labels, budget)
    check_runs(targets)
    logits = logits_fn(images)
    finite = jnp.isfinite(logits).all(-1)
    wrong = is_met(UNTIL_MISCLASSIFIED, logits, labels)
    start_distance = jnp.where(wrong, 0, jnp.inf).astype(images.dtype)
    begin = FABResult(images, start_distance, Found(images, wrong, finite))
    no_keys = jax.random.split(jax.random.key(0), len(images))

    def one(best: FABResult, aims: Array) -> tuple[FABResult, None]:
        state = method.start(logits_fn, images, labels, aims, budget, no_keys)
        state = method.advance(logits_fn, images, labels, aims, budget, state, budget.steps)
        nearer = state.distance < best.distance
        adversarial = jnp.where(per_example(nearer, images), state.nearest, best.adversarial)
        distance = jnp.where(nearer, state.distance, best.distance)
        broken = distance <= budget.eps
        inside = jnp.where(per_example(broken, images), adversarial, images)
        return FABResult(adversarial, distance, Found(inside, broken, best.found.finite & state.found.finite)), None

    return lax.scan(one, begin, targets)[0]
