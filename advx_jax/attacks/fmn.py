"""FMN, the fast minimum-norm attack (Pintor et al. 2021, arXiv 2102.12827, algorithm 1), for L2 and L∞.

The perturbation climbs the difference of logits inside a ball. Before the first success the ball's
radius is a linear estimate of the distance to the boundary; from then on it shrinks after a success
and grows after a failure, by less and less.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from advx_jax.attacks.arrays import Images, Labels, Perturbations, Values
from advx_jax.attacks.ascent import negative_log_odds
from advx_jax.attacks.base import Model, Number
from advx_jax.attacks.criteria import grid_step
from advx_jax.attacks.minimum_norm import MinimumNorm, SearchState, cosine, farthest_in_box
from advx_jax.attacks.norms import per_example
from advx_jax.attacks.projections import dual_size, project, unit_l2


@struct.dataclass(kw_only=True)
class FMN(MinimumNorm):
    """The attack's settings; lengths are L2 norms on the images' scale, also of the L∞ attack.

    Attributes:
        step_length: α of the first step; falls to `last_step_length` as half a cosine.
        last_step_length: α after the last step.
        gamma: γ, by which fraction the first radii shrink or grow; falls to `last_gamma` in the same way.
        last_gamma: γ after the last step.
        climb: "margin", the difference between two logits, as in the paper; "log_odds", the label's against
            all other classes, whose gradient jumps from no class to another.
        relative: step lengths are fractions of the longest that fits into the ball, so that they fit networks of
            any robustness.
    """

    step_length: Number = 1.0
    last_step_length: Number = 0.01
    gamma: Number = 0.05
    last_gamma: Number = 0.001
    climb: Literal["margin", "log_odds"] = struct.field(pytree_node=False, default="margin")
    relative: bool = struct.field(pytree_node=False, default=False)

    def step(self, model: Model, images: Images, labels: Labels, state: SearchState) -> SearchState:
        """Look, change the radius, follow the gradient, and go back into the ball."""

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
        reached = self.size(state.perturbation)
        # Growing a little at least: where the box cuts steps short, the estimate alone closes in on the
        # boundary from inside and never crosses it. What the box cut off counts as grown already.
        least = jnp.minimum(state.radius, reached * (1 + gamma)) * (1 + self.last_gamma)
        gap = jnp.abs(margin) + grid_step(self.criterion, logits, labels)
        estimate = jnp.maximum(reached + gap / self._slope(gradient), least)
        missed = jnp.where(jnp.isfinite(best.norm), state.radius * (1 + gamma), estimate)
        radius = jnp.where(success, jnp.minimum(state.radius * (1 - gamma), best.norm), missed)
        if self.stay_in_range:
            radius = jnp.minimum(radius, self.size(farthest_in_box(images)))
        # No ball is known to hold a boundary where the gradient vanishes or all other classes are masked.
        radius = jnp.where(jnp.isfinite(radius), radius, reached)
        # Of the ball's corner, for L∞.
        reach = radius if self.norm == "L2" else radius * math.sqrt(images[0].size)
        lengths = jnp.broadcast_to(length, radius.shape) * (reach if self.relative else 1)
        moved = state.perturbation - per_example(lengths, gradient) * unit_l2(gradient)
        perturbation = self.project(images, project(self.norm, moved, radius))
        return SearchState(state.step + 1, perturbation, radius, best)

    def _slope(self, gradient: Perturbations) -> Values:
        """Largest change of the margin along a perturbation of size 1: the dual norm of its gradient."""
        slope = dual_size(self.norm, gradient)
        return jnp.maximum(slope, jnp.finfo(slope.dtype).tiny)
