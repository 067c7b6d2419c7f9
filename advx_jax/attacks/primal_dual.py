"""PDGD and PDPGD: descend the perturbation and ascend the weight of the constraint that it be over the boundary.

From "PDPGD: primal-dual proximal gradient descent adversarial attack" (Matyasko and Chau 2021, arXiv 2106.01538):
the Lagrangian λ₀·‖δ‖ + λ₁·loss is minimised over δ and maximised over λ. PDGD (algorithm 1) descends both terms by
their gradients; PDPGD (algorithm 2) descends the loss, and the norm by its proximal operator, so that norms without
gradients are minimised too. Its proximal steps in Adam's metric are those of "ProxGen" and "Adaptive proximal gradient
methods" (Melchior, Joseph and Moolekamp 2019, arXiv 1910.10094).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Int

from advx_jax.attacks.adam import Descent, Moments, adam, no_moments
from advx_jax.attacks.arrays import Images, Keys, Labels, Mask, Perturbations, Values
from advx_jax.attacks.base import Model, Number
from advx_jax.attacks.minimum_norm import MinimumNorm, SmallestSoFar
from advx_jax.attacks.norms import per_example
from advx_jax.attacks.projections import NORMS, NormLike, l2_norm, linf_norm, prox, unit_l2

# Of the constraint's weight's moving average.
_DUAL_DECAY = 0.9
# λ₀ and λ₁ are not further apart.
_LEAST_RATIO = 1e-6
# Of the proximal steps within a step: how many there are, and by which part of δ one has to change it to go on.
_PROXIMAL_STEPS, _CONVERGED = 5, 1e-2


class PrimalDualState(NamedTuple):
    """State between two steps.

    Attributes:
        step: number of steps made.
        perturbation: δ, to be evaluated next.
        moments: Adam's.
        log_ratio: log(λ₁/λ₀), as it is ascended.
        share: λ₁/(λ₀ + λ₁), averaged over the steps.
        best_so_far: the smallest success.
    """

    step: Int[Array, ""]
    perturbation: Perturbations
    moments: Moments
    log_ratio: Values
    share: Values
    best_so_far: SmallestSoFar


@struct.dataclass(kw_only=True)
class PrimalDual(MinimumNorm):
    """What both have in common.

    Attributes:
        step_length: of the first step, of Adam's direction; falls exponentially to `last_step_part` of it.
        last_step_part: see above.
        first_ratio: λ₀/λ₁ before the first step.
        dual_length: of the first step of log(λ₁/λ₀); falls linearly to `last_dual_part` of it.
        last_dual_part: see above.
    """

    steps: int = struct.field(pytree_node=False, default=500)
    step_length: Number = 0.1
    last_step_part: Number = 0.01
    first_ratio: Number = 0.01
    dual_length: Number = 0.1
    last_dual_part: Number = 0.1

    def init(self, model: Model, images: Images, labels: Labels, keys: Keys | None) -> PrimalDualState:
        """State before the first step: no perturbation, and nothing random in it."""
        del model, labels, keys
        log_ratio = jnp.full(images.shape[:1], -jnp.log(self.first_ratio), images.dtype)
        share = jax.nn.sigmoid(log_ratio)
        return PrimalDualState(
            step=jnp.zeros((), jnp.int32),
            perturbation=jnp.zeros_like(images),
            moments=no_moments(images),
            log_ratio=log_ratio,
            share=share,
            best_so_far=self.nothing_so_far(images),
        )

    def step(self, model: Model, images: Images, labels: Labels, state: PrimalDualState) -> PrimalDualState:
        """Look, descend the perturbation, and ascend the weight of the constraint."""

        def loss(perturbation: Array) -> tuple[Array, tuple[Array, Array]]:
            logits = model(images + perturbation)
            margin = self.criterion.margin(logits, labels)
            return jax.nn.softplus(margin).sum(), (margin, logits)

        gradient, (margin, logits) = jax.grad(loss, has_aux=True)(state.perturbation)
        best, _ = self.update_best(state.best_so_far, state.perturbation, logits, labels)

        moments, descent = adam(state.moments, self.primal_gradient(state, gradient), state.step)
        done = state.step.astype(images.dtype)
        length = jnp.asarray(self.step_length * self.last_step_part ** (done / self.steps), images.dtype)
        moved = self.project(images, state.perturbation - length * descent.direction)
        perturbation = self.shrunk(images, moved, state.share, descent, length)

        left = (self.steps - 1 - done) / max(self.steps - 1, 1)
        dual_length = self.dual_length * (left * (1 - self.last_dual_part) + self.last_dual_part)
        bound = -math.log(_LEAST_RATIO)
        log_ratio = jnp.clip(state.log_ratio + dual_length * jnp.sign(margin).astype(images.dtype), -bound, bound)
        share = state.share + (1 - _DUAL_DECAY) * (jax.nn.sigmoid(log_ratio) - state.share)
        return PrimalDualState(state.step + 1, perturbation, moments, log_ratio, share, best)

    def primal_gradient(self, state: PrimalDualState, gradient: Perturbations) -> Perturbations:
        """What is descended by gradients, from the loss's gradient."""
        raise NotImplementedError

    def shrunk(
        self, images: Images, moved: Perturbations, share: Values, descent: Descent, length: Array
    ) -> Perturbations:
        """What is left of δ where its norm is descended apart from the loss.

        Args:
            images: x.
            moved: δ after the loss's step.
            share: of the constraint.
            descent: of that step.
            length: of that step.
        """
        raise NotImplementedError


@struct.dataclass(kw_only=True)
class PDGD(PrimalDual):
    """Primal-dual gradient descent, for L2.

    Attributes:
        norm: "L2".
    """

    norms = ("L2",)

    def primal_gradient(self, state: PrimalDualState, gradient: Perturbations) -> Perturbations:
        """Of λ₀·‖δ‖₂ + λ₁·loss; of the norm 0 where δ is 0."""
        share = per_example(state.share, gradient)
        return (1 - share) * unit_l2(state.perturbation) + share * gradient

    def shrunk(
        self, images: Images, moved: Perturbations, share: Values, descent: Descent, length: Array
    ) -> Perturbations:
        """All that was descended was so by gradients."""
        del images, share, descent, length
        return moved


@struct.dataclass(kw_only=True)
class PDPGD(PrimalDual):
    """Primal-dual proximal gradient descent.

    Attributes:
        norm: "L0", "L1", "L2" or "Linf".
        shrink: the norm whose proximal operator is used, if not that of `norm`: "L1" keeps more in motion than L0's.
    """

    norms = NORMS

    shrink: NormLike | None = struct.field(pytree_node=False, default=None)

    def primal_gradient(self, state: PrimalDualState, gradient: Perturbations) -> Perturbations:
        """Of the loss alone."""
        del state
        return gradient

    def shrunk(
        self, images: Images, moved: Perturbations, share: Values, descent: Descent, length: Array
    ) -> Perturbations:
        """Argmin over z of μ·‖z‖ + ½(z - δ)ᵀH(z - δ), H the metric of Adam's step, by a few proximal steps."""
        largest = linf_norm(descent.scale)
        metric = descent.scale / per_example(largest, moved)
        weight = (1 - share) / share * length / largest

        def refined(state: tuple[Perturbations, Mask], _: None) -> tuple[tuple[Perturbations, Mask], None]:
            now, moving = state
            new = self.project(images, prox(self.shrink or self.norm, now - metric * (now - moved), weight))
            new = jnp.where(per_example(moving, new), new, now)
            return (new, l2_norm(new - now) > _CONVERGED * l2_norm(new)), None

        start = moved, jnp.ones(images.shape[:1], bool)
        return lax.scan(refined, start, length=_PROXIMAL_STEPS)[0][0]
