"""σ-zero, for L0: gradients of a smooth count of the values that change, and a threshold below which none does.

From "σ-zero: gradient-based optimization of ℓ0-norm adversarial examples" (Cinà, Villani, Pintor, Schönherr, Biggio and
Pelillo 2025, arXiv 2402.01879), algorithm 1 and equations 3 to 6.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int

from advx_jax.attacks.adam import Moments, adam, no_moments
from advx_jax.attacks.arrays import Images, Keys, Labels, Logits, Mask, Perturbations, Values
from advx_jax.attacks.base import Model, Number
from advx_jax.attacks.minimum_norm import MinimumNorm, SmallestSoFar, cosine
from advx_jax.attacks.norms import per_example
from advx_jax.attacks.projections import NormLike, linf_norm

# Of the first step's length the last one keeps so much.
_LAST_STEP = 0.1
_TINY = 1e-12


class SigmaZeroState(NamedTuple):
    """State between two steps.

    Attributes:
        step: number of steps made.
        perturbation: δ, to be evaluated next.
        moments: Adam's.
        threshold: τ, below which a value of δ becomes 0.
        best_so_far: the smallest success.
    """

    step: Int[Array, ""]
    perturbation: Perturbations
    moments: Moments
    threshold: Values
    best_so_far: SmallestSoFar


@struct.dataclass(kw_only=True)
class SigmaZero(MinimumNorm):
    """The attack's settings; it minimises how many values change, three for a pixel that changes in all channels.

    Attributes:
        norm: "L0".
        steps: the paper makes 1000.
        step_length: η₀ of the first step, of Adam's direction; falls to a tenth as half a cosine.
        sigma: σ; a value δ_i counts as δ_i²/(δ_i² + σ).
        first_threshold: τ₀.
        threshold_rate: t, how much τ rises after a success and falls after a failure, of the step's length.
    """

    norms = ("L0",)

    norm: NormLike = struct.field(pytree_node=False, default="L0")
    steps: int = struct.field(pytree_node=False, default=1000)
    step_length: Number = 1.0
    sigma: Number = 0.001
    first_threshold: Number = 0.3
    threshold_rate: Number = 0.01

    @property
    def name(self) -> str:
        """As the field names it."""
        return "sigma-zero"

    def init(self, model: Model, images: Images, labels: Labels, keys: Keys | None) -> SigmaZeroState:
        """State before the first step: no perturbation, and nothing random in it."""
        del model, labels, keys
        threshold = jnp.full(images.shape[:1], self.first_threshold, images.dtype)
        nothing = self.nothing_so_far(images)
        return SigmaZeroState(jnp.zeros((), jnp.int32), jnp.zeros_like(images), no_moments(images), threshold, nothing)

    def step(self, model: Model, images: Images, labels: Labels, state: SigmaZeroState) -> SigmaZeroState:
        """Look, descend, and make the smallest values 0."""

        def looked(perturbation: Array) -> tuple[Array, Array]:
            logits = model(images + perturbation)
            return self.descended(perturbation, logits, labels).sum(), logits

        gradient, logits = jax.grad(looked, has_aux=True)(state.perturbation)
        best, success = self.update_best(state.best_so_far, state.perturbation, logits, labels)
        return self.moved(images, state, gradient, best, success)

    def descended(self, perturbation: Perturbations, logits: Logits, labels: Labels) -> Values:
        """What is descended, of each example: the margin before the boundary, and the smooth share that changes."""
        square = jnp.square(perturbation)
        count = (square / (square + self.sigma)).mean(tuple(range(1, square.ndim)))
        return jax.nn.relu(self.criterion.margin(logits, labels)) + count

    def moved(
        self, images: Images, state: SigmaZeroState, gradient: Perturbations, best: SmallestSoFar, success: Mask
    ) -> SigmaZeroState:
        """The state after a look.

        Args:
            images: x.
            state: before it.
            gradient: of what is descended.
            best: the smallest success, this look's too.
            success: whether it is one.
        """
        gradient = gradient / per_example(jnp.maximum(linf_norm(gradient), _TINY), gradient)
        moments, descent = adam(state.moments, gradient, state.step)
        # The threshold moves by the length that the next step will have.
        length, next_length = (self._length(step) for step in (jnp.maximum(state.step - 1, 0), state.step))
        moved = self.project(images, state.perturbation - length.astype(images.dtype) * descent.direction)
        change = (self.threshold_rate * next_length).astype(images.dtype)
        threshold = jnp.clip(state.threshold + jnp.where(success, change, -change), 0, 1)
        perturbation = jnp.where(jnp.abs(moved) < per_example(threshold, moved), 0, moved)
        return SigmaZeroState(state.step + 1, perturbation, moments, threshold, best)

    @property
    def descent_steps(self) -> int:
        """Steps until the last and shortest one."""
        return self.steps

    def _length(self, step: Int[Array, ""]) -> Array:
        fallen = cosine(jnp.minimum(step, self.descent_steps), self.descent_steps)
        return self.step_length * (_LAST_STEP + (1 - _LAST_STEP) * fallen)
