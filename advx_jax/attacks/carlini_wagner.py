"""The attack of Carlini and Wagner for L2, "Towards evaluating the robustness of neural networks" (2017).

arXiv 1608.04644, section 6.1: ‖δ‖² + c·max(z_y - max_{k≠y} z_k, 0) falls by Adam, in a variable whose tanh is the image
so that it stays in [0,1]; run after run, c grows where there was no success and falls where there was. For reference:
others find smaller distances at less cost.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int

from advx_jax.attacks.adam import Moments, adam, no_moments
from advx_jax.attacks.arrays import Images, Keys, Labels, Mask, Perturbations, Values
from advx_jax.attacks.ascent import at_least_float32
from advx_jax.attacks.base import AttackResult, Model, Number
from advx_jax.attacks.minimum_norm import MinimumNorm, SmallestSoFar

# How far inside of [0,1] the tanh begins, to have a gradient; the factor of c before the first success, and what stands
# for no upper end.
_INSIDE = 1 - 1e-6
_GROWTH, _NO_END = 10.0, 1e10


class CarliniWagnerState(NamedTuple):
    """State between two steps.

    Attributes:
        made: steps of the run that were made.
        moved: the variable less that of the image.
        moments: Adam's.
        weight: c of the run.
        low: the largest c without success.
        high: the smallest one with.
        found: whether this run had success.
        best_so_far: the smallest success.
    """

    made: Int[Array, ""]
    moved: Perturbations
    moments: Moments
    weight: Values
    low: Values
    high: Values
    found: Mask
    best_so_far: SmallestSoFar


@struct.dataclass(kw_only=True)
class CarliniWagner(MinimumNorm):
    """The attack's settings; it always stays in [0,1].

    Attributes:
        steps: gradients in all.
        run_steps: of each run, after which c changes.
        step_length: Adam's.
        init_weight: the first c.
    """

    needs_box = True
    norms = ("L2",)

    steps: int = struct.field(pytree_node=False, default=900)
    run_steps: int = struct.field(pytree_node=False, default=100)
    step_length: Number = 0.01
    init_weight: Number = 0.001

    @property
    def name(self) -> str:
        """As the field names it."""
        return "cw"

    def init(self, model: Model, images: Images, labels: Labels, keys: Keys | None) -> CarliniWagnerState:
        """State before the first step."""
        del keys
        each = jnp.zeros(images.shape[0], images.dtype)
        best = self.best_at_start(images, model(images), labels)
        return CarliniWagnerState(
            made=jnp.zeros((), jnp.int32),
            moved=jnp.zeros_like(images),
            moments=no_moments(images),
            weight=each + self.init_weight,
            low=each,
            high=each + _NO_END,
            found=jnp.zeros(images.shape[0], bool),
            best_so_far=best,
        )

    def step(self, model: Model, images: Images, labels: Labels, state: CarliniWagnerState) -> CarliniWagnerState:
        """A step of Adam, and another c at the end of a run."""
        begun = jnp.arctanh((2 * jnp.clip(images, 0, 1) - 1) * _INSIDE)

        def height(moved: Array) -> tuple[Array, tuple[Array, Array]]:
            change = (jnp.tanh(begun + moved) + 1) / 2 - images
            logits = model(images + change)
            gap = jnp.maximum(self.criterion.margin(logits, labels), 0)
            square = jnp.square(at_least_float32(change)).sum(tuple(range(1, change.ndim)))
            return (square + state.weight * gap).sum(), (change, logits)

        gradient, (change, logits) = jax.grad(height, has_aux=True)(state.moved)
        best, success = self.update_best(state.best_so_far, change, logits, labels)
        moments, descent = adam(state.moments, gradient, state.made)
        moved = state.moved - self.step_length * descent.direction

        ends, found = state.made + 1 >= self.run_steps, state.found | success
        high = jnp.where(ends & found, jnp.minimum(state.high, state.weight), state.high)
        low = jnp.where(ends & ~found, jnp.maximum(state.low, state.weight), state.low)
        other = jnp.where(high < _NO_END, (low + high) / 2, state.weight * jnp.where(found, 1, _GROWTH))
        return CarliniWagnerState(
            made=jnp.where(ends, 0, state.made + 1),
            moved=jnp.where(ends, 0, moved),
            moments=jax.tree.map(lambda average: jnp.where(ends, 0, average), moments),
            weight=jnp.where(ends, other, state.weight),
            low=low,
            high=high,
            found=found & ~ends,
            best_so_far=best,
        )

    def result(self, model: Model, images: Images, labels: Labels, state: CarliniWagnerState) -> AttackResult:
        """The smallest success; the last step is not looked at any more."""
        del model, labels
        return self.found(images, state.best_so_far)
