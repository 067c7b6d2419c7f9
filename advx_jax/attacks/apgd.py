"""Auto-PGD: gradient ascent with momentum that halves its steps when the loss no longer rises.

From "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks" (Croce and Hein 2020, arXiv 2003.01690).
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from advx_jax.attacks.budget import (
    Budget,
    Found,
    Method,
    check,
    look,
    nothing_found,
    random_direction,
    run_all,
    steepest,
    untargeted,
    within,
)
from advx_jax.attacks.loop import LogitsFn
from advx_jax.attacks.losses import UNTARGETED, LossName, climb, likeliest_targets
from advx_jax.attacks.norms import per_example
from advx_jax.errors import UserError

# The paper's: α of the momentum, ρ of the condition on rises, the first step over eps, and the
# lengths of the first window, of the shortest, and by how much each is shorter, over all steps.
_INERTIA, _RISES, _FIRST_STEP = 0.75, 0.75, 2.0
_FIRST_WINDOW, _SHORTEST_WINDOW, _WINDOW_SHRINKS = 0.22, 0.06, 0.03


class APGDState(NamedTuple):
    """State between two steps.

    Attributes:
        step: number of steps made.
        iterate: the point to step from.
        previous: the point before it.
        gradient: of the loss at the iterate.
        best: the point with the largest loss so far.
        best_gradient: of the loss there.
        best_loss: there.
        last_loss: at the point evaluated last.
        step_size: in the budget's norm.
        rises: how often the loss rose since the last checkpoint.
        best_at_check: the largest loss at the last checkpoint.
        halved_at_check: whether the step was halved at the last checkpoint.
        found: what was misclassified.
    """

    step: Int[Array, ""]
    iterate: Float[Array, "batch *shape"]
    previous: Float[Array, "batch *shape"]
    gradient: Float[Array, "batch *shape"]
    best: Float[Array, "batch *shape"]
    best_gradient: Float[Array, "batch *shape"]
    best_loss: Float[Array, " batch"]
    last_loss: Float[Array, " batch"]
    step_size: Float[Array, " batch"]
    rises: Int[Array, " batch"]
    best_at_check: Float[Array, " batch"]
    halved_at_check: Bool[Array, " batch"]
    found: Found


def checkpoints(steps: int) -> Int[np.ndarray, " steps"]:
    """Length of the window that ends with each step; 0 where none does.

    Windows start at 22 % of all steps and get shorter by 3 % each, down to 6 %.
    """
    window, shortest = max(int(_FIRST_WINDOW * steps), 1), max(int(_SHORTEST_WINDOW * steps), 1)
    shrinks = max(int(_WINDOW_SHRINKS * steps), 1)
    ends = np.zeros(steps, np.int32)
    end = window
    while end <= steps:
        ends[end - 1] = window
        window = max(window - shrinks, shortest)
        end += window
    return ends


def start_at(
    loss: LossName,
    logits_fn: LogitsFn,
    images: Float[Array, "batch *shape"],
    labels: Int[Array, " batch"],
    targets: Int[Array, " batch"],
    budget: Budget,
    initial: Float[Array, "batch *shape"],
) -> APGDState:
    """State before the first step, at points of one's own (brought into the budget)."""
    initial = within(budget, images, initial)
    values, gradient, logits = climb(loss, logits_fn, initial, labels, targets)
    batch = images.shape[0]
    return APGDState(
        step=jnp.zeros((), jnp.int32),
        iterate=initial,
        previous=initial,
        gradient=gradient,
        best=initial,
        best_gradient=gradient,
        best_loss=values,
        # The reference implementation compares the first step's loss with 0 instead of the one
        # before; so do we, to halve where it halves.
        last_loss=jnp.zeros_like(values),
        step_size=jnp.full(batch, _FIRST_STEP, images.dtype) * budget.eps,
        rises=jnp.zeros(batch, jnp.int32),
        best_at_check=values,
        halved_at_check=jnp.ones(batch, bool),
        found=look(nothing_found(images), initial, logits, labels),
    )


def start(
    loss: LossName,
    logits_fn: LogitsFn,
    images: Float[Array, "batch *shape"],
    labels: Int[Array, " batch"],
    targets: Int[Array, " batch"],
    budget: Budget,
    keys: Key[Array, " batch"],
) -> APGDState:
    """State before the first step, at random points on the surface of the ball."""
    initial = images + budget.eps * random_direction(budget.norm, keys, images)
    return start_at(loss, logits_fn, images, labels, targets, budget, initial)


def advance(
    loss: LossName,
    logits_fn: LogitsFn,
    images: Float[Array, "batch *shape"],
    labels: Int[Array, " batch"],
    targets: Int[Array, " batch"],
    budget: Budget,
    state: APGDState,
    n_steps: int,
) -> APGDState:
    """Make `n_steps` of the budget's steps."""
    windows = jnp.asarray(checkpoints(budget.steps))

    def step(state: APGDState, _: None) -> tuple[APGDState, None]:
        here = state.iterate
        inertia = jnp.where(state.step > 0, _INERTIA, 1).astype(images.dtype)
        uphill = here + per_example(state.step_size, here) * steepest(budget.norm, state.gradient)
        plain = within(budget, images, uphill)
        new = within(budget, images, here + inertia * (plain - here) + (1 - inertia) * (here - state.previous))
        values, gradient, logits = climb(loss, logits_fn, new, labels, targets)

        better = values > state.best_loss
        best = jnp.where(per_example(better, new), new, state.best)
        best_gradient = jnp.where(per_example(better, new), gradient, state.best_gradient)
        best_loss = jnp.where(better, values, state.best_loss)
        rises = state.rises + (values > state.last_loss)

        window = windows[state.step]
        stuck = ~state.halved_at_check & (state.best_at_check >= best_loss)
        halve = (window > 0) & ((rises <= _RISES * window) | stuck)
        back = per_example(halve, new)
        return APGDState(
            step=state.step + 1,
            iterate=jnp.where(back, best, new),
            previous=here,
            gradient=jnp.where(back, best_gradient, gradient),
            best=best,
            best_gradient=best_gradient,
            best_loss=best_loss,
            last_loss=values,
            step_size=jnp.where(halve, state.step_size / 2, state.step_size),
            rises=jnp.where(window > 0, 0, rises),
            best_at_check=jnp.where(window > 0, best_loss, state.best_at_check),
            halved_at_check=jnp.where(window > 0, halve, state.halved_at_check),
            found=look(state.found, new, logits, labels),
        ), None

    return lax.scan(step, state, length=n_steps)[0]


def method(loss: LossName) -> Method:
    """APGD on a loss, to be run in segments; make one and keep it, since compiled code is kept apart by it."""
    return Method(functools.partial(start, loss), functools.partial(advance, loss))


APGD_CE = method("cross_entropy")
APGD_DLR = method("dlr")
APGD_T = method("targeted_dlr")


def apgd_attack(
    logits_fn: LogitsFn,
    images: Float[Array, "batch *shape"],
    labels: Int[Array, " batch"],
    budget: Budget,
    key: Key[Array, ""],
    loss: LossName = "cross_entropy",
    restarts: int = 1,
    indices: Int[Array, " batch"] | None = None,
) -> Found:
    """APGD from random points: with "cross_entropy" AutoAttack's APGD-CE, with "dlr" its APGD-DLR.

    Args:
        logits_fn: images to logits, for instance a `Classifier`.
        images: x, on the [0,1] scale.
        labels: true classes.
        budget: of each run; AutoAttack makes 100 steps.
        key: of the starting points.
        loss: what to climb: "cross_entropy", "dlr" or "margin".
        restarts: how often to start.
        indices: of the images in their data set; see `run_all`.

    Raises:
        UserError: shapes do not fit, the budget is none, or the loss is another or has too few classes.
    """
    if loss not in UNTARGETED:
        raise UserError(f"expected one of {', '.join(UNTARGETED)} as the loss, got {loss!r}")
    return run_all(method(loss), logits_fn, images, labels, untargeted(labels, restarts), budget, key, indices)


def targeted_apgd_attack(
    logits_fn: LogitsFn,
    images: Float[Array, "batch *shape"],
    labels: Int[Array, " batch"],
    budget: Budget,
    key: Key[Array, ""],
    n_targets: int = 9,
    indices: Int[Array, " batch"] | None = None,
) -> Found:
    """AutoAttack's APGD-T: APGD on the targeted DLR loss, towards the likeliest other classes one after another.

    Arguments as `apgd_attack`; `n_targets` is how many classes to go to.
    """
    check(images, labels, budget)
    targets = likeliest_targets(logits_fn(images), labels, n_targets)
    return run_all(APGD_T, logits_fn, images, labels, targets, budget, key, indices)
