"""What minimum-norm attacks share: they evaluate a perturbation, remember the smallest success, and step."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from advx_jax.attacks.arrays import Counts, Images, Keys, Labels, Logits, Mask, Perturbations, Values
from advx_jax.attacks.base import Attack, AttackResult, Model, Number, smaller
from advx_jax.attacks.criteria import are_numbers, clearly_met, is_met
from advx_jax.attacks.norms import per_example, rms
from advx_jax.attacks.projections import NormLike, clip_to_box, size
from advx_jax.errors import UserError


class SmallestSoFar(NamedTuple):
    """The smallest success so far, per example.

    Attributes:
        perturbation: δ; 0 if there was none.
        norm: its size, by which it is the smallest; infinite if there was none.
        first_success: evaluations before the first success; all so far if there was none.
        evaluations: made so far, of each example.
        finite: no logit was NaN, nor infinite where that decides, and no perturbation was either.
    """

    perturbation: Perturbations
    norm: Values
    first_success: Counts
    evaluations: Int[Array, ""]
    finite: Mask


class SearchState(NamedTuple):
    """State between two steps.

    Attributes:
        step: number of steps made.
        perturbation: δ, to be evaluated next.
        radius: ε of the sphere or ball that it lies in, of each example.
        best_so_far: the smallest success.
    """

    step: Int[Array, ""]
    perturbation: Perturbations
    radius: Values
    best_so_far: SmallestSoFar


@struct.dataclass(kw_only=True)
class MinimumNorm(Attack):
    """Base of attacks that look for the smallest perturbation at which the criterion holds.

    Attributes:
        steps: with one gradient each; success is looked for once more after the last step, without one.
        norm: to minimise, "L2" or "Linf", or what the attack's `norms` say; L0 counts the values that change.
        stay_in_range: keep x + δ in [0,1], as benchmarks do.
    """

    steps: int = struct.field(pytree_node=False, default=100)
    norm: NormLike = struct.field(pytree_node=False, default="L2")
    stay_in_range: bool = struct.field(pytree_node=False, default=True)

    # Whether the attack knows no way out of [0,1].
    needs_box = False

    def check(self, n_classes: int | None = None) -> None:
        """Refuse to leave [0,1] where the attack cannot.

        Raises:
            UserError: in one line.
        """
        super().check(n_classes)
        if self.needs_box and not self.stay_in_range:
            raise UserError(f"expected stay_in_range=True for {self.name}, which cannot leave [0,1], got False")

    def size(self, perturbation: Perturbations) -> Values:
        """The norm that is minimised."""
        return size(self.norm, perturbation)

    def project(self, images: Images, perturbation: Perturbations) -> Perturbations:
        """Bring x + δ back into [0,1] if it has to stay there."""
        return clip_to_box(images, perturbation) if self.stay_in_range else perturbation

    @property
    def first_radius(self) -> Number:
        """Of the sphere or ball before the first step; infinite where the first step finds one."""
        return jnp.inf

    def join(self, first: AttackResult, second: AttackResult) -> AttackResult:
        """What two runs on the same images found together: the smaller success counts."""
        return smaller(first, second)

    def nothing_so_far(self, images: Images) -> SmallestSoFar:
        """What is known before the first step."""
        batch = images.shape[0]
        return SmallestSoFar(
            perturbation=jnp.zeros_like(images),
            norm=jnp.full(batch, jnp.inf, images.dtype),
            first_success=jnp.full(batch, self.steps, jnp.int32),
            evaluations=jnp.zeros((), jnp.int32),
            finite=jnp.ones(batch, bool),
        )

    def init(self, model: Model, images: Images, labels: Labels, keys: Keys | None) -> Any:
        """State before the first step: no perturbation, and nothing random in it."""
        del model, labels, keys
        radius = jnp.full(images.shape[0], self.first_radius, images.dtype)
        return SearchState(jnp.zeros((), jnp.int32), jnp.zeros_like(images), radius, self.nothing_so_far(images))

    def best_at_start(self, images: Images, logits: Logits, labels: Labels) -> SmallestSoFar:
        """What the images' own logits tell, which count as no evaluation: one over the boundary needs no change."""
        met, nothing = is_met(self.criterion, logits, labels), self.nothing_so_far(images)
        return nothing._replace(
            norm=jnp.where(met, 0, nothing.norm),
            first_success=jnp.where(met, 0, nothing.first_success),
            finite=are_numbers(logits, labels),
        )

    def update_best(
        self, best: SmallestSoFar, perturbation: Perturbations, logits: Logits, labels: Labels
    ) -> tuple[SmallestSoFar, Mask]:
        """Count an evaluation, tell which examples succeed with a perturbation, remember it where it is the smallest.

        A success so close to the boundary that rounding decides is none. An image that needs no perturbation
        is over the boundary by definition.
        """
        norm = self.size(perturbation)
        unmoved = (norm == 0) & is_met(self.criterion, logits, labels)
        success = clearly_met(self.criterion, logits, labels) | unmoved
        smaller = success & (norm < best.norm)
        best = SmallestSoFar(
            perturbation=jnp.where(per_example(smaller, perturbation), perturbation, best.perturbation),
            norm=jnp.where(smaller, norm, best.norm),
            first_success=jnp.where(success, jnp.minimum(best.first_success, best.evaluations), best.first_success),
            evaluations=best.evaluations + 1,
            finite=best.finite & are_numbers(logits, labels) & jnp.isfinite(norm),
        )
        return best, success

    def result(self, model: Model, images: Images, labels: Labels, state: Any) -> AttackResult:
        """Look at the last perturbation too, and say what was found."""
        logits = model(images + state.perturbation)
        best, _ = self.update_best(state.best_so_far, state.perturbation, logits, labels)
        return self.found(images, best._replace(evaluations=state.best_so_far.evaluations))

    def found(self, images: Images, best: SmallestSoFar) -> AttackResult:
        """The result, of the smallest success."""
        success = jnp.isfinite(best.norm)
        return AttackResult(
            adversarial=jnp.where(per_example(success, images), images + best.perturbation, images),
            success=success,
            norm=best.norm,
            rms=jnp.where(success, rms(best.perturbation), jnp.inf),
            first_success=best.first_success,
            evaluations=jnp.broadcast_to(best.evaluations, success.shape),
            finite=best.finite,
        )


def cosine(step: Int[Array, ""], steps: int) -> Float[Array, ""]:
    """Fall from 1 at the first step towards 0 after the last one, as half a cosine."""
    return (1 + jnp.cos(jnp.pi * step / steps)) / 2


def farthest_in_box(images: Images) -> Perturbations:
    """How far each value can move in [0,1]."""
    return jnp.maximum(images, 1 - images)
