"""Directions in which a label becomes less likely: the gradient that an attack follows."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from advx_jax.attacks.arrays import Labels, Logits, Perturbations, Values
from advx_jax.attacks.norms import damped_unit, exact_unit

Direction = Literal["cross_entropy", "scale_free"]


def at_least_float32(values: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The same numbers, so that what is computed from them is not rounded to half precision."""
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def cross_entropy(logits: Logits, labels: Labels) -> Values:
    """Cross-entropy CE = -log p_y of each example, in plain floating point as published."""
    return -jnp.take_along_axis(jax.nn.log_softmax(at_least_float32(logits)), labels[:, None], axis=-1)[:, 0]


def negative_log_odds(logits: Logits, labels: Labels) -> Values:
    """M = logsumexp of the other logits - z_y, so that CE = log(1 + eᵐ) and ∇CE = σ(m)·∇m.

    Its gradient has the direction of the cross-entropy's, but does not vanish, nor lose its
    ∂z_y term, where p_y rounds to 1 (docs/method.md, Saturated networks). Where all other classes are masked by -inf
    it is -inf, and has no gradient but the label's.
    """
    logits = at_least_float32(logits)
    own = jnp.arange(logits.shape[-1])[None] == labels[:, None]
    alone = (own | (logits == -jnp.inf)).all(-1)
    # The gradient of the logarithm of an empty sum would be NaN.
    others = jax.nn.logsumexp(jnp.where(alone[:, None], 0, jnp.where(own, -jnp.inf, logits)), axis=-1)
    others = jnp.where(alone, -jnp.inf, others)
    return others - jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]


def objective(direction: Direction, logits: Array, labels: Array) -> Float[Array, ""]:
    """What an attack climbs: a SUM over the batch, so that each example keeps its own gradient."""
    height = negative_log_odds if direction == "scale_free" else cross_entropy
    return height(logits, labels).sum()


def unit_gradient(direction: Direction, gradient: Perturbations) -> Perturbations:
    """Scale each example's gradient to RMS 1; "cross_entropy" leaves vanishing ones damped, as published."""
    return exact_unit(gradient) if direction == "scale_free" else damped_unit(gradient)
