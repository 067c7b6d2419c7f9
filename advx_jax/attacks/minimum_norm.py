"""What minimum-norm attacks share: they look at a perturbation, remember the smallest success, and step."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from advx_jax.attacks.base import Attack, AttackResult, Model
from advx_jax.attacks.criteria import are_numbers, clearly_met, is_met
from advx_jax.attacks.norms import per_example, rms
from advx_jax.attacks.projections import NormLike, size


class Smallest(NamedTuple):
    """The smallest success so far, per example.

    Attributes:
        perturbation: δ; 0 if there was none.
        norm: its size, by which it is the smallest; infinite if there was none.
        first_success: evaluations before the first success; all so far if there was none.
        evaluations: made so far, of each example.
        finite: no logit was NaN, nor infinite where that decides, and no perturbation was either.
    """

    perturbation: Float[Array, "batch *shape"]
    norm: Float[Array, " batch"]
    first_success: Int[Array, " batch"]
    evaluations: Int[Array, ""]
    finite: Bool[Array, " batch"]


class SearchState(NamedTuple):
    """State between two steps.

    Attributes:
        step: number of steps made.
        perturbation: δ, to look at next.
        radius: ε of the sphere or ball that it lies in, of each example.
        found: the smallest success so far.
    """

    step: Int[Array, ""]
    perturbation: Float[Array, "batch *shape"]
    radius: Float[Array, " batch"]
    found: Smallest


@struct.dataclass(kw_only=True)
class MinimumNorm(Attack):
    """Base of attacks that look for the smallest perturbation at which the criterion holds.

    Attributes:
        steps: with one gradient each; success is looked for once more after the last step, without one.
        norm: to minimise, "L2" or "Linf".
        stay_in_range: keep x + δ in [0,1], as benchmarks do.
    """

    steps: int = struct.field(pytree_node=False, default=100)
    norm: NormLike = struct.field(pytree_node=False, default="L2")
    stay_in_range: bool = struct.field(pytree_node=False, default=True)

    def size(self, perturbation: Float[Array, "batch *shape"]) -> Float[Array, " batch"]:
        """The norm that is minimised."""
        return size(self.norm, perturbation)

    def nothing_found(self, images: Float[Array, "batch *shape"]) -> Smallest:
        """What is known before the first look."""
        batch = images.shape[0]
        return Smallest(
            perturbation=jnp.zeros_like(images),
            norm=jnp.full(batch, jnp.inf, images.dtype),
            first_success=jnp.full(batch, self.steps, jnp.int32),
            evaluations=jnp.zeros((), jnp.int32),
            finite=jnp.ones(batch, bool),
        )

    def look(
        self,
        found: Smallest,
        perturbation: Float[Array, "batch *shape"],
        logits: Float[Array, "batch classes"],
        labels: Int[Array, " batch"],
    ) -> tuple[Smallest, Bool[Array, " batch"]]:
        """Tell which examples succeed with a perturbation, and remember it where it is the smallest.

        A success so close to the boundary that rounding decides is none. An image that needs no perturbation
        is over the boundary by definition.
        """
        norm = self.size(perturbation)
        unmoved = (norm == 0) & is_met(self.criterion, logits, labels)
        success = clearly_met(self.criterion, logits, labels) | unmoved
        smaller = success & (norm < found.norm)
        found = found._replace(
            perturbation=jnp.where(per_example(smaller, perturbation), perturbation, found.perturbation),
            norm=jnp.where(smaller, norm, found.norm),
            first_success=jnp.where(success, jnp.minimum(found.first_success, found.evaluations), found.first_success),
            finite=found.finite & are_numbers(logits, labels) & jnp.isfinite(norm),
        )
        return found, success

    def result(
        self, model: Model, images: Float[Array, "batch *shape"], labels: Int[Array, " batch"], state: Any
    ) -> AttackResult:
        """Look at the last perturbation too, and say what was found."""
        found, _ = self.look(state.found, state.perturbation, model(images + state.perturbation), labels)
        success = jnp.isfinite(found.norm)
        return AttackResult(
            adversarial=jnp.where(per_example(success, images), images + found.perturbation, images),
            success=success,
            norm=found.norm,
            rms=jnp.where(success, rms(found.perturbation), jnp.inf),
            first_success=found.first_success,
            evaluations=jnp.broadcast_to(found.evaluations, success.shape),
            finite=found.finite,
        )


def cosine(step: Int[Array, ""], steps: int) -> Float[Array, ""]:
    """Fall from 1 at the first step towards 0 after the last one, as half a cosine."""
    return (1 + jnp.cos(jnp.pi * step / steps)) / 2


def farthest_in_box(images: Float[Array, "batch *shape"]) -> Float[Array, "batch *shape"]:
    """How far each value can move in [0,1]."""
    return jnp.maximum(images, 1 - images)
