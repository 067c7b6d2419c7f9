"""The controller that holds training near a target loss by the weight ψ of the Lipschitz penalty."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from advx_jax.training.recipe import Penalty


def next_integrator(penalty: Penalty, integrator: Float[Array, ""], mean_loss: Float[Array, ""]) -> Float[Array, ""]:
    """Move the integrator by a batch (docs/method.md, ψ controller).

    r ← max(0, r + clip(-ln(CE/target), least, greatest)).

    Args:
        penalty: constants of the controller.
        integrator: r before the batch, at least 0.
        mean_loss: mean cross-entropy CE of the global batch.
    """
    move = jnp.clip(-jnp.log(mean_loss / penalty.target_loss), penalty.smallest_move, penalty.largest_move)
    return jnp.maximum(0, integrator + move)


def penalty_weight(penalty: Penalty, integrator: Float[Array, ""]) -> Float[Array, ""]:
    """ψ = ψ₀·exp(rate·r)."""
    return penalty.weight_at_zero * jnp.exp(penalty.rate * integrator)
