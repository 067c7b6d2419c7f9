"""Projected gradient descent (PGD): steps of one length along the gradient, back into the ball after each.

From "Towards deep learning models resistant to adversarial attacks" (Madry, Makelov, Schmidt, Tsipras and
Vladu 2018, arXiv 1706.06083).
"""

import functools
from typing import NamedTuple

import jax
from jax import lax
from jaxtyping import Array, Float, Int, Key

from advx_jax.attacks.budget import (
    Budget,
    Found,
    Method,
    look,
    nothing_found,
    random_direction,
    run_all,
    steepest,
    untargeted,
    within,
)
from advx_jax.attacks.loop import LogitsFn
from advx_jax.attacks.losses import climb
from advx_jax.attacks.projections import Norm

# Madry et al.: steps long enough to cross the ball from any starting point and still move about.
_PATH_OVER_EPS = 2.5


class PGDState(NamedTuple):
    """State between two steps.

    Attributes:
        iterate: the point to step from.
        gradient: of the cross-entropy there.
        found: what was misclassified.
    """

    iterate: Float[Array, "batch *shape"]
    gradient: Float[Array, "batch *shape"]
    found: Found


def start_at(
    logits_fn: LogitsFn,
    images: Float[Array, "batch *shape"],
    labels: Int[Array, " batch"],
    targets: Int[Array, " batch"],
    budget: Budget,
    initial: Float[Array, "batch *shape"],
) -> PGDState:
    """State before the first step, at points of one's own (brought into the budget)."""
    return _arrive(logits_fn, labels, targets, within(budget, images, initial), nothing_found(images))


def start(
    logits_fn: LogitsFn,
    images: Float[Array, "batch *shape"],
    labels: Int[Array, " batch"],
    targets: Int[Array, " batch"],
    budget: Budget,
    keys: Key[Array, " batch"],
) -> PGDState:
    """State before the first step, at points that are uniform in the ball."""
    initial = images + budget.eps * jax.vmap(functools.partial(_draw, budget.norm))(keys, images)
    return start_at(logits_fn, images, labels, targets, budget, initial)


def advance(
    logits_fn: LogitsFn,
    images: Float[Array, "batch *shape"],
    labels: Int[Array, " batch"],
    targets: Int[Array, " batch"],
    budget: Budget,
    state: PGDState,
    n_steps: int,
) -> PGDState:
    """Make `n_steps` of the budget's steps, each 2.5·eps divided by their number; every point reached is looked at."""
    step_size = _PATH_OVER_EPS * budget.eps / budget.steps

    def step(state: PGDState, _: None) -> tuple[PGDState, None]:
        new = within(budget, images, state.iterate + step_size * steepest(budget.norm, state.gradient))
        return _arrive(logits_fn, labels, targets, new, state.found), None

    return lax.scan(step, state, length=n_steps)[0]


PGD = Method(start, advance)


def pgd_attack(
    logits_fn: LogitsFn,
    images: Float[Array, "batch *shape"],
    labels: Int[Array, " batch"],
    budget: Budget,
    key: Key[Array, ""],
    restarts: int = 1,
    indices: Int[Array, " batch"] | None = None,
) -> Found:
    """PGD on the cross-entropy, from random points of the ball.

    Args:
        logits_fn: images to logits, for instance a `Classifier`.
        images: x, on the [0,1] scale.
        labels: true classes.
        budget: of each run.
        key: of the starting points.
        restarts: how often to start.
        indices: of the images in their data set; see `run_all`.

    Raises:
        UserError: shapes do not fit, or the budget is none.
    """
    return run_all(PGD, logits_fn, images, labels, untargeted(labels, restarts), budget, key, indices)


def _arrive(logits_fn: LogitsFn, labels: Array, targets: Array, points: Array, found: Found) -> PGDState:
    _, gradient, logits = climb("cross_entropy", logits_fn, points, labels, targets)
    return PGDState(points, gradient, look(found, points, logits, labels))


def _draw(norm: Norm, key: Key[Array, ""], like: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """A point that is uniform in the unit ball."""
    if norm == "Linf":
        return jax.random.uniform(key, like.shape, like.dtype, -1, 1)
    # The part of a ball within radius r grows as r to the power of its dimension.
    direction_key, radius_key = jax.random.split(key)
    radius = jax.random.uniform(radius_key, (), like.dtype) ** (1 / like.size)
    return radius * random_direction("L2", direction_key[None], like[None])[0]
