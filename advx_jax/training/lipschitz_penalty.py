"""The Lipschitz penalty: the squared input gradient of one logit an example (docs/method.md, Lipschitz penalty)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def penalised_score(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    random_logit: Int[Array, " batch"],
    tandem: Bool[Array, " batch"],
) -> Float[Array, " batch"]:
    """The score s of each example whose input gradient is penalised.

    Args:
        logits: z, in training mode.
        labels: true classes.
        random_logit: the logit drawn for each example.
        tandem: where True, z_y - max_{j≠y} z_j takes its place; of equal largest logits the first
            alone passes its gradient on.
    """
    own = jnp.arange(logits.shape[-1])[None] == labels[:, None]
    rival = jax.lax.stop_gradient(jnp.where(own, -jnp.inf, logits)).argmax(-1)
    margin = _pick(logits, labels) - _pick(logits, rival)
    return jnp.where(tandem, margin, _pick(logits, random_logit))


def _pick(logits: Array, classes: Array) -> Array:
    return jnp.take_along_axis(logits, classes[:, None], axis=-1)[:, 0]
