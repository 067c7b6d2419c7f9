"""Frank-Wolfe in an Lp ball: changes towards a class that are sparse (L1.5), spread out (L2) or small everywhere (L∞).

From "Sparse visual counterfactual explanations in image space" (Boreiko, Augustin, Croce, Berens and Hein 2022,
arXiv 2205.07972): between L1, whose changes are single pixels, and L2, whose changes are everywhere, the L1.5 ball
gives the changes that people can read. A projection onto it has no closed form; Frank-Wolfe needs none, but the point
of ball and box that is farthest along the gradient, which has (their proposition 4.1). Steps are the classical ones,
2/(t+2) of the way at step t (Jaggi 2013), rather than theirs, which halve where the loss is stuck. What is climbed is
the label's log odds m against all other classes: CE = log(1 + eᵐ) orders points as m does and has its gradient's
direction, all that a step depends on, but in float32 both are 0 where the label's probability rounds to 1.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int

from advx_jax.attacks.arrays import Counts, Images, Keys, Labels, Logits, Mask, Perturbations, Values
from advx_jax.attacks.ascent import negative_log_odds
from advx_jax.attacks.base import Attack, AttackResult, Model, Number
from advx_jax.attacks.criteria import are_numbers, clearly_met, is_met
from advx_jax.attacks.explained import Explained
from advx_jax.attacks.norms import per_example, rms
from advx_jax.attacks.projections import NormLike, clip_to_box, linf_norm

BallNorm = Literal["L1.5", "L2", "Linf"]
"""Norms whose balls it knows."""

_POWERS = {"L1.5": 1.5, "L2": 2.0}
# Points between corners lie inside of the ball, and steps of 2/(t+2) come to its surface in the limit only. On networks
# that were trained to be robust, L1.5 explanations end within 0.4% of eps after the usual 75 steps, and within 2% after
# 25; on others, where the gradient turns about, at half of it.
_REACHED = 0.95


class FrankWolfeState(NamedTuple):
    """State between two steps.

    Attributes:
        step: t, the number of steps made.
        iterate: δ, to step from.
        perturbation: the best δ so far: over the boundary if any was, and of those the most confident.
        value: its loss, as it is climbed.
        met: whether it is over the boundary, beyond rounding.
        began: whether the image was, before any step.
        first_success: first t at which δ was; T if it never was.
        first_stop: first t at which the iterate had the length eps, or nearly; T if it never had.
        finite: no logit was NaN, nor infinite where that decides.
    """

    step: Int[Array, ""]
    iterate: Perturbations
    perturbation: Perturbations
    value: Values
    met: Mask
    began: Mask
    first_success: Counts
    first_stop: Counts
    finite: Mask


@struct.dataclass(kw_only=True)
class FrankWolfe(Attack):
    """The most confident point on Frank-Wolfe's path in the ball, towards the label or away from it.

    Where the image is over the boundary to begin with, it is its own adversarial image, as in all attacks;
    `state.perturbation` holds the change that makes it most confident in any case, as explanations need it.

    Attributes:
        eps: radius of the ball in its norm, on the images' scale.
        norm: "L1.5", "L2" or "Linf".
        steps: with one gradient each.
        stay_in_range: keep x + δ in [0,1].
    """

    norms = ("L1.5", "L2", "Linf")

    eps: Number
    norm: NormLike = struct.field(pytree_node=False, default="L1.5")
    steps: int = struct.field(pytree_node=False, default=75)
    stay_in_range: bool = struct.field(pytree_node=False, default=True)

    @property
    def name(self) -> str:
        """For people, tables and results."""
        return "frank-wolfe"

    def settings(self) -> dict[str, Any]:
        """Everything that a result depends on; also what is climbed: in an earlier release the cross-entropy."""
        return super().settings() | {"objective": "log_odds"}

    def init(self, model: Model | None, images: Images, labels: Labels, keys: Keys | None = None) -> FrankWolfeState:
        """State before the first step: no perturbation."""
        del model, labels, keys
        batch = images.shape[0]
        zeros, no, never = jnp.zeros_like(images), jnp.zeros(batch, bool), jnp.full(batch, self.steps, jnp.int32)
        lowest = jnp.full(batch, -jnp.inf, images.dtype)
        step = jnp.zeros((), jnp.int32)
        return FrankWolfeState(step, zeros, zeros, lowest, no, no, never, never, jnp.ones(batch, bool))

    def step(self, model: Model, images: Images, labels: Labels, state: FrankWolfeState) -> FrankWolfeState:
        """Look at the point reached, and go on towards the point of ball and box that its gradient points at."""

        def total(points: Images) -> tuple[Array, tuple[Values, Logits]]:
            logits = model(points)
            values = self._height(logits, labels)
            return values.sum(), (values, logits)

        gradient, (values, logits) = jax.grad(total, has_aux=True)(images + state.iterate)
        state = self._looked_at(labels, state, values, logits)
        corner = farthest(self.norm, gradient, self.eps, self._room(images, gradient))
        share = 2 / (state.step + 2).astype(images.dtype)
        moved = (1 - share) * state.iterate + share * corner
        if self.stay_in_range:
            moved = clip_to_box(images, moved)
        return state._replace(step=state.step + 1, iterate=moved)

    def result(self, model: Model, images: Images, labels: Labels, state: FrankWolfeState) -> AttackResult:
        """What the best point is, the last one among them."""
        state = self.finished(model, images, labels, state)
        change = jnp.where(per_example(state.met & ~state.began, images), state.perturbation, 0)
        success = state.met | state.began
        return AttackResult(
            adversarial=images + change,
            success=success,
            norm=jnp.where(success, lp_size(self.norm, change), jnp.inf),
            rms=jnp.where(success, rms(change), jnp.inf),
            first_success=state.first_success,
            evaluations=jnp.full(images.shape[:1], self.steps, jnp.int32),
            finite=state.finite,
        )

    def finished(self, model: Model, images: Images, labels: Labels, state: FrankWolfeState) -> FrankWolfeState:
        """Look at the last point too, after the last step; `state.perturbation` is the best of all then."""
        logits = model(images + state.iterate)
        return self._looked_at(labels, state, self._height(logits, labels), logits)

    def explained(self, model: Model, images: Images, labels: Labels, state: FrankWolfeState) -> Explained:
        """The best point as an explanation, which has reached its bound where it has the length eps, or nearly.

        That an earlier point of the path had it says nothing of this one: the first steps end on the ball's surface.
        """
        state = self.finished(model, images, labels, state)
        reached = self._has_length(state.perturbation)
        first_stop = jnp.where(reached, state.first_stop, self.steps)
        return Explained(state.perturbation, first_stop, reached, state.finite)

    def _height(self, logits: Logits, labels: Labels) -> Values:
        """What is climbed."""
        values = negative_log_odds(logits, labels)
        return -values if self.criterion.towards_label else values

    def _has_length(self, delta: Perturbations) -> Mask:
        return lp_size(self.norm, delta) >= self.eps * _REACHED

    def _looked_at(self, labels: Labels, state: FrankWolfeState, values: Values, logits: Logits) -> FrankWolfeState:
        begins = state.step == 0
        met = clearly_met(self.criterion, logits, labels)
        began = state.began | (begins & is_met(self.criterion, logits, labels))
        better = jnp.where(met == state.met, values > state.value, met)
        reached = self._has_length(state.iterate)

        def first(place: Counts, holds: Mask) -> Counts:
            return jnp.where(holds, jnp.minimum(place, state.step), place)

        return state._replace(
            perturbation=jnp.where(per_example(better, state.iterate), state.iterate, state.perturbation),
            value=jnp.where(better, values, state.value),
            met=jnp.where(better, met, state.met),
            began=began,
            first_success=first(state.first_success, met | (begins & began)),
            first_stop=first(state.first_stop, reached),
            finite=state.finite & are_numbers(logits, labels),
        )

    def _room(self, images: Images, gradient: Perturbations) -> Perturbations:
        """How far each value may go along its gradient; an image that is not in [0,1] goes no further out."""
        if not self.stay_in_range:
            return jnp.full_like(images, jnp.inf)
        return jnp.maximum(jnp.where(gradient > 0, 1 - images, images), 0)


def farthest(norm: BallNorm, gradient: Perturbations, eps: Number, room: Perturbations) -> Perturbations:
    """The δ that is farthest along a gradient g: argmax g·δ over ‖δ‖_p ≤ eps and |δ_i| ≤ room_i.

    For a finite p it is δ_i = sign(g_i)·min(room_i, c·|g_i|^(1/(p-1))), with the c at which ‖δ‖_p = eps: between two of
    the values of c at which one more entry runs out of room, ‖δ‖_p is known in closed form.

    Args:
        norm: of the ball.
        gradient: g; where it is 0, so is δ.
        eps: radius.
        room: at least 0, possibly infinite.
    """
    if norm == "Linf":
        return jnp.sign(gradient) * jnp.minimum(eps, room)
    p = _POWERS[norm]
    largest = linf_norm(gradient)
    sizes = jnp.abs(gradient) / per_example(jnp.where(largest > 0, largest, 1), gradient)
    shares = (sizes ** (1 / (p - 1))).reshape(len(gradient), -1)
    limits = jnp.where(shares > 0, room.reshape(shares.shape), 0)
    # From the entry that runs out of room first; those that do not move have none left to run out of.
    ends = jnp.where(shares > 0, limits / jnp.where(shares > 0, shares, 1), -1)
    order = jnp.argsort(ends, axis=-1)
    ends, shares_p, limits_p = (jnp.take_along_axis(values, order, axis=-1) for values in (ends, shares**p, limits**p))
    # ‖δ‖_p^p where c is just at each end: entries before it are at their limits, it and those behind it are not yet.
    finite = jnp.isfinite(limits_p)
    full = jnp.cumsum(jnp.where(finite, limits_p, 0), axis=-1)
    before = full - jnp.where(finite, limits_p, 0)
    behind = jnp.flip(jnp.cumsum(jnp.flip(shares_p, -1), axis=-1), -1)
    budget = jnp.asarray(eps, gradient.dtype) ** p
    at_limit = ((before + jnp.maximum(ends, 0) ** p * behind < budget) & finite).sum(-1, keepdims=True)
    pad = ((0, 0), (0, 1))
    spent = jnp.take_along_axis(jnp.pad(full, ((0, 0), (1, 0))), at_limit, axis=-1)
    left = jnp.take_along_axis(jnp.pad(behind, pad), at_limit, axis=-1)
    scale = jnp.where(left > 0, (jnp.maximum(budget - spent, 0) / jnp.where(left > 0, left, 1)) ** (1 / p), jnp.inf)
    moved = jnp.where(shares > 0, jnp.minimum(limits, jnp.where(shares > 0, scale * shares, 0)), 0)
    delta = jnp.sign(gradient) * moved.reshape(gradient.shape)
    # Sums of thousands of powers round; the ball is kept to exactly.
    size = lp_size(norm, delta)
    return delta * per_example(jnp.where(size > eps, eps / jnp.where(size > 0, size, 1), 1), delta)


def lp_size(norm: BallNorm, delta: Perturbations) -> Values:
    """Norm of each example."""
    largest = linf_norm(delta)
    if norm == "Linf":
        return largest
    p = _POWERS[norm]
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    powers = (jnp.abs(delta) / per_example(scale, delta)) ** p
    return scale * powers.sum(tuple(range(1, delta.ndim))) ** (1 / p)
