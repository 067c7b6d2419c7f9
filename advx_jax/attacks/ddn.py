"""DDN, the decoupled direction and norm attack (Rony et al. 2019, arXiv 1811.09600, algorithm 1), for L2.

The perturbation follows the gradient's direction and is then put on a sphere, whose radius shrinks
after a success and grows after a failure.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from advx_jax.attacks.arrays import Images, Labels
from advx_jax.attacks.ascent import negative_log_odds
from advx_jax.attacks.base import Model, Number
from advx_jax.attacks.minimum_norm import MinimumNorm, SearchState, cosine, farthest_in_box
from advx_jax.attacks.norms import per_example
from advx_jax.attacks.projections import l2_norm, unit_l2

_LAST_STEP_LENGTH = 0.01


@struct.dataclass(kw_only=True)
class DDN(MinimumNorm):
    """The attack's settings; lengths are L2 norms on the images' scale.

    Attributes:
        gamma: γ, by which fraction the radius shrinks or grows.
        init_norm: the first radius.
        levels: round perturbed images to so many grey levels, 256 for 8 bits as in the paper; None for
            real numbers, which do not add the rounding's own distance to small ones.
    """

    norms = ("L2",)

    gamma: Number = 0.05
    init_norm: Number = 1.0
    levels: int | None = struct.field(pytree_node=False, default=None)

    def settings(self) -> dict[str, Any]:
        """Everything that a result depends on; its norm is always the same."""
        fields = super().settings()
        del fields["norm"]
        return fields

    @property
    def first_radius(self) -> Number:
        """Of the sphere before the first step."""
        return self.init_norm

    def step(self, model: Model, images: Images, labels: Labels, state: SearchState) -> SearchState:
        """Look, follow the gradient by a step of falling length, and go to the sphere."""

        def unlikeliness(perturbation: Array) -> tuple[Array, Array]:
            logits = model(images + perturbation)
            # The direction of the cross-entropy's gradient, which does not vanish where p_y rounds to 1.
            return negative_log_odds(logits, labels).sum(), logits

        gradient, logits = jax.grad(unlikeliness, has_aux=True)(state.perturbation)
        best, success = self.update_best(state.best_so_far, state.perturbation, logits, labels)

        direction = unit_l2(-gradient if self.criterion.towards_label else gradient)
        length = _LAST_STEP_LENGTH + (1 - _LAST_STEP_LENGTH) * cosine(state.step, self.steps)
        radius = state.radius * jnp.where(success, 1 - self.gamma, 1 + self.gamma)
        if self.stay_in_range:
            radius = jnp.minimum(radius, l2_norm(farthest_in_box(images)))
        moved = state.perturbation + length.astype(images.dtype) * direction
        perturbation = self.project(images, unit_l2(moved) * per_example(radius, moved))
        if self.levels is not None:
            perturbation = jnp.round((images + perturbation) * (self.levels - 1)) / (self.levels - 1) - images
        return SearchState(state.step + 1, perturbation, radius, best)
