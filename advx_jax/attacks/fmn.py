"""FMN, the fast minimum-norm attack (Pintor et al. 2021, arXiv 2102.12827, algorithm 1), for L0, L1, L2 and L∞.

The perturbation climbs the difference of logits inside a ball. Before the first success the ball's
radius is a linear estimate of the distance to the boundary; from then on it shrinks after a success
and grows after a failure, by less and less. In L0, where nothing can be estimated, it begins with one value, and
changes by one value at least.
"""

import math
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from advx_jax.attacks.arrays import Images, Labels, Mask, Perturbations, Values
from advx_jax.attacks.ascent import negative_log_odds
from advx_jax.attacks.base import Model, Number
from advx_jax.attacks.criteria import grid_step
from advx_jax.attacks.minimum_norm import MinimumNorm, SearchState, SmallestSoFar, cosine, farthest_in_box
from advx_jax.attacks.norms import per_example
from advx_jax.attacks.projections import NORMS, Norm, dual_size, project, unit_l2


class Look(NamedTuple):
    """What a step knows once the perturbation was evaluated.

    Attributes:
        gradient: to be descended.
        lengths: of the step.
        radius: of the ball that it has to stay in.
        best_so_far: the smallest success.
    """

    gradient: Perturbations
    lengths: Values
    radius: Values
    best_so_far: SmallestSoFar


@struct.dataclass(kw_only=True)
class FMN(MinimumNorm):
    """The attack's settings; step lengths are L2 norms on the images' scale, whatever the norm that is minimised.

    Attributes:
        norm: "L0", "L1", "L2" or "Linf".
        step_length: α of the first step; falls to `last_step_length` as half a cosine.
        last_step_length: α after the last step.
        gamma: γ, by which fraction the first radii shrink or grow; falls to `last_gamma` in the same way.
        last_gamma: γ after the last step.
        climb: "margin", the difference between two logits, as in the paper; "log_odds", the label's against
            all other classes, whose gradient jumps from no class to another.
        relative: step lengths are fractions of the longest that fits into the ball, so that they fit networks of
            any robustness.
    """

    norms: ClassVar[tuple[Norm, ...]] = NORMS

    step_length: Number = 1.0
    last_step_length: Number = 0.01
    gamma: Number = 0.05
    last_gamma: Number = 0.001
    climb: Literal["margin", "log_odds"] = struct.field(pytree_node=False, default="margin")
    relative: bool = struct.field(pytree_node=False, default=False)

    @property
    def first_radius(self) -> Number:
        """Of the ball before the first step; in all norms but L0 the first step finds one."""
        return 1.0 if self.norm == "L0" else jnp.inf

    def step(self, model: Model, images: Images, labels: Labels, state: SearchState) -> SearchState:
        """Look, change the radius, follow the gradient, and go back into the ball."""
        gradient, lengths, radius, best = self.look(model, images, labels, state)
        moved = state.perturbation - per_example(lengths, gradient) * unit_l2(gradient)
        # One value at least moves, also where none was to: no gradient is had at the image itself for the next step.
        ball = jnp.maximum(radius, 1) if self.norm == "L0" else radius
        perturbation = self.project(images, project(self.norm, moved, ball))
        return SearchState(state.step + 1, perturbation, radius, best)

    def look(self, model: Model, images: Images, labels: Labels, state: SearchState) -> Look:
        """Evaluate the perturbation, and change the radius."""

        def descended(perturbation: Array) -> tuple[Array, tuple[Array, Array]]:
            logits = model(images + perturbation)
            margin = self.criterion.margin(logits, labels)
            if self.climb == "margin":
                return margin.sum(), (margin, logits)
            height = negative_log_odds(logits, labels)
            return (height if self.criterion.towards_label else -height).sum(), (margin, logits)

        gradient, (margin, logits) = jax.grad(descended, has_aux=True)(state.perturbation)
        best, success = self.update_best(state.best_so_far, state.perturbation, logits, labels)

        fall = cosine(state.step, self.steps).astype(images.dtype)
        length = self.last_step_length + (self.step_length - self.last_step_length) * fall
        gamma = self.last_gamma + (self.gamma - self.last_gamma) * fall
        if self.norm == "L0":
            radius = _count(state.radius, best, success, gamma)
        else:
            gap = jnp.abs(margin) + grid_step(self.criterion, logits, labels)
            radius = self._radius(state, best, success, gamma, gap / self._slope(gradient))
        if self.stay_in_range:
            radius = jnp.minimum(radius, self.size(farthest_in_box(images)))
        # No ball is known to hold a boundary where the gradient vanishes or all other classes are masked.
        radius = jnp.where(jnp.isfinite(radius), radius, self.size(state.perturbation))
        lengths = jnp.broadcast_to(length, radius.shape) * (self.reach(images, radius) if self.relative else 1)
        return Look(gradient, lengths, radius, best)

    def _radius(self, state: SearchState, best: SmallestSoFar, success: Mask, gamma: Array, distance: Values) -> Values:
        """Of the next ball, where sizes are lengths.

        Args:
            state: before the step.
            best: the smallest success so far.
            success: whether the perturbation just looked at is one.
            gamma: γ.
            distance: from there to the boundary, if the network were linear.
        """
        reached = self.size(state.perturbation)
        # Growing a little at least: where the box cuts steps short, the estimate alone closes in on the
        # boundary from inside and never crosses it. What the box cut off counts as grown already.
        least = jnp.minimum(state.radius, reached * (1 + gamma)) * (1 + self.last_gamma)
        estimate = jnp.maximum(reached + distance, least)
        missed = jnp.where(jnp.isfinite(best.norm), state.radius * (1 + gamma), estimate)
        return jnp.where(success, jnp.minimum(state.radius * (1 - gamma), best.norm), missed)

    def _slope(self, gradient: Perturbations) -> Values:
        """Largest change of the margin along a perturbation of size 1: the dual norm of its gradient."""
        slope = dual_size(self.norm, gradient)
        return jnp.maximum(slope, jnp.finfo(slope.dtype).tiny)

    def reach(self, images: Images, radius: Values) -> Values:
        """The longest step, in L2, that fits into the ball: to its corner."""
        match self.norm:
            case "L0":
                return jnp.sqrt(radius)
            case "Linf":
                return radius * math.sqrt(images[0].size)
            case _:
                return radius


def _count(radius: Values, best: SmallestSoFar, success: Mask, gamma: Array) -> Values:
    """How many values the next perturbation may change."""
    fewer = jnp.minimum(jnp.minimum(radius - 1, jnp.floor(radius * (1 - gamma))), best.norm)
    more = jnp.maximum(radius + 1, jnp.floor(radius * (1 + gamma)))
    return jnp.maximum(jnp.where(success, fewer, more), 0)
