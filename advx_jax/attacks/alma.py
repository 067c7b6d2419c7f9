"""ALMA, the augmented Lagrangian method for adversarial attacks, for L2 and L1.

From "Augmented Lagrangian adversarial attacks" (Rony, Granger, Pedersoli and Ben Ayed 2021, arXiv 2011.11857),
algorithm 1: the distance and a penalty P(g, ρ, μ) on the constraint g ≤ 0 of being over the boundary are descended
together, by RMSProp with momentum; the multiplier μ follows P's slope, and ρ grows where the constraint does not
improve. P is their P₂, g the difference of logits ratio.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Int

from advx_jax.attacks.arrays import Images, Keys, Labels, Logits, Mask, Perturbations, Values
from advx_jax.attacks.ascent import at_least_float32
from advx_jax.attacks.base import Model, Number
from advx_jax.attacks.criteria import Criterion, NoBetterThanRandom
from advx_jax.attacks.minimum_norm import MinimumNorm, SmallestSoFar
from advx_jax.attacks.norms import per_example
from advx_jax.attacks.projections import l2_norm, unit_l2

# The paper's τ, γ, α and M: by which part the constraint has to improve, how ρ grows where it does not, how much of
# moving averages stays, and how many steps there are between two looks at the improvement.
_IMPROVED, _PENALTY_GROWS, _KEPT, _CHECK_STEPS = 0.95, 1.2, 0.9, 10
_LEAST_MULTIPLIER, _LARGEST_MULTIPLIER = 1e-6, 1e12
# Of the length of the first step: a gradient shorter than that leads nowhere; how often the length is doubled at most,
# and then halved.
_VANISHED, _DOUBLINGS, _HALVINGS = 1e-6, 100, 20
_DAMPING = 1e-8
# Equal logits, or masked ones, make ratios that would overflow.
_LARGEST_RATIO, _WIDEST = 1e6, 1e12


class ALMAState(NamedTuple):
    """State between two steps.

    Attributes:
        step: number of steps made.
        perturbation: δ, to be evaluated next.
        square: moving average of the gradient's squares.
        velocity: RMSProp's momentum.
        length: of steps before it falls, of each example.
        multiplier: μ.
        penalty: ρ.
        constraint_at_check: g when last looked at.
        found_at: the step of the first success; one after the last step if there was none.
        best_so_far: the smallest success.
    """

    step: Int[Array, ""]
    perturbation: Perturbations
    square: Perturbations
    velocity: Perturbations
    length: Values
    multiplier: Values
    penalty: Values
    constraint_at_check: Values
    found_at: Values
    best_so_far: SmallestSoFar


@struct.dataclass(kw_only=True)
class ALMA(MinimumNorm):
    """The attack's settings.

    Attributes:
        norm: "L2" or "L1".
        step_length: of steps before the first success; falls exponentially to `last_step_part` of it from there on.
        last_step_part: see above.
        first_distance: ε, how far the first step leads in the norm; `step_length` then follows from it. None to have
            `step_length` as it is.
        tolerance: added to the difference of logits.
    """

    norms = ("L1", "L2")

    steps: int = struct.field(pytree_node=False, default=1000)
    step_length: Number = 0.1
    last_step_part: Number = 0.01
    first_distance: Number | None = None
    tolerance: Number = 1e-4

    def init(self, model: Model, images: Images, labels: Labels, keys: Keys | None) -> ALMAState:
        """State before the first step: no perturbation, and nothing random in it."""
        del model, labels, keys
        ones = jnp.ones(images.shape[:1], images.dtype)
        return ALMAState(
            step=jnp.zeros((), jnp.int32),
            perturbation=jnp.zeros_like(images),
            square=jnp.ones_like(images),
            velocity=jnp.zeros_like(images),
            length=self.step_length * ones,
            multiplier=ones,
            penalty=ones,
            constraint_at_check=0 * ones,
            found_at=(self.steps + 1) * ones,
            best_so_far=self.nothing_so_far(images),
        )

    def step(self, model: Model, images: Images, labels: Labels, state: ALMAState) -> ALMAState:
        """Look, update multiplier and penalty, and descend distance and penalty."""

        def constraint(perturbation: Array) -> tuple[Array, tuple[Array, Array]]:
            logits = model(images + perturbation)
            values = _ratio(self.criterion, logits, labels, self.tolerance).astype(images.dtype)
            return values.sum(), (jnp.clip(values, -_LARGEST_RATIO, _LARGEST_RATIO), logits)

        slope, (values, logits) = jax.grad(constraint, has_aux=True)(state.perturbation)
        best, _ = self.update_best(state.best_so_far, state.perturbation, logits, labels)

        begins, found = state.step == 0, state.found_at <= self.steps
        looks = begins | ((state.step + 1) % _CHECK_STEPS == 0)
        stuck = looks & ~begins & ~(found | (values < _IMPROVED * state.constraint_at_check))
        penalty = jnp.where(stuck, _PENALTY_GROWS * state.penalty, state.penalty)
        followed = state.multiplier + (1 - _KEPT) * (
            _penalty_slope(values, penalty, state.multiplier) - state.multiplier
        )
        followed = jnp.clip(followed, _LEAST_MULTIPLIER, _LARGEST_MULTIPLIER)
        multiplier = jnp.where(begins, state.multiplier, followed)
        done = state.step.astype(images.dtype)
        found_at = jnp.where(~found & (values < 0), done, state.found_at)

        away = jnp.sign(state.perturbation) if self.norm == "L1" else unit_l2(state.perturbation)
        # At the image itself distance has no gradient that is one.
        gradient = per_example(_penalty_slope(values, penalty, multiplier), slope) * slope + jnp.where(begins, 0, away)
        length = state.length
        if self.first_distance is not None:
            gradient = jnp.where(begins, _not_vanishing(gradient), gradient)
            first = functools.partial(self._first_length, images, gradient, self.first_distance)
            length = lax.cond(begins, first, lambda: state.length)

        fallen = self.last_step_part ** (jnp.maximum(done - found_at, 0) / (self.steps - found_at))
        square = _KEPT * state.square + (1 - _KEPT) * jnp.square(gradient)
        velocity = _KEPT * state.velocity + gradient / (jnp.sqrt(square) + _DAMPING)
        moved = self.project(images, state.perturbation - per_example(length * fallen, velocity) * velocity)
        return ALMAState(
            step=state.step + 1,
            perturbation=moved,
            square=square,
            velocity=velocity,
            length=length,
            multiplier=multiplier,
            penalty=penalty,
            constraint_at_check=jnp.where(looks, values, state.constraint_at_check),
            found_at=found_at,
            best_so_far=best,
        )

    def _first_length(self, images: Images, gradient: Perturbations, distance: Number) -> Values:
        """The length of a step along the gradient alone that leads as far as that."""

        def too_far(length: Values) -> Mask:
            return self.size(self.project(images, -per_example(length, gradient) * gradient)) > distance

        def doubled(_: Array, bounds: tuple[Values, Values]) -> tuple[Values, Values]:
            low, high = bounds
            enough = too_far(high)
            return jnp.where(enough, low, high), jnp.where(enough, high, 2 * high)

        def halved(_: Array, bounds: tuple[Values, Values]) -> tuple[Values, Values]:
            low, high = bounds
            middle = (low + high) / 2
            far = too_far(middle)
            return jnp.where(far, low, middle), jnp.where(far, middle, high)

        ones = jnp.ones(images.shape[:1], images.dtype)
        bounds = lax.fori_loop(0, _DOUBLINGS, doubled, (0 * ones, ones))
        low, high = lax.fori_loop(0, _HALVINGS, halved, bounds)
        return (low + high) / 2


def _ratio(criterion: Criterion, logits: Logits, labels: Labels, tolerance: Number) -> Values:
    """The constraint g, negative over the boundary: a difference of logits, over how far the largest are apart.

    Log odds are differences from a fixed number and have no such scale; nor is there one for two classes.
    """
    margin = criterion.margin(logits, labels) + tolerance
    needed = 4 if criterion.towards_label else 3
    if isinstance(criterion, NoBetterThanRandom) or logits.shape[-1] < needed:
        return margin
    top = lax.top_k(at_least_float32(logits), needed)[0]
    spread = top[:, 0] - top[:, 2:].mean(-1)
    return margin / (jnp.minimum(spread, _WIDEST) + _DAMPING)


def _penalty_slope(values: Values, penalty: Values, multiplier: Values) -> Values:
    """Slope of P₂ in g: of μg + μρg² + ρ²g³/6 where g is positive, of μg/(1 - ρg) where it is negative."""
    outside, inside = jnp.maximum(values, 0), jnp.minimum(values, 0)
    return jnp.where(
        values >= 0,
        multiplier + 2 * multiplier * penalty * outside + jnp.square(penalty * outside) / 2,
        multiplier / jnp.square(1 - penalty * inside),
    )


def _not_vanishing(gradient: Perturbations) -> Perturbations:
    """The gradient, or a direction that leads somewhere where it has none."""
    level = jnp.full_like(gradient, -1)
    return jnp.where(per_example(l2_norm(gradient) <= _VANISHED, gradient), unit_l2(level), gradient)
