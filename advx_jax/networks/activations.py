"""Activation functions: ReLU and the paper's Half-Huber ReLU (docs/method.md, Network)."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def half_huber_relu(x: Float[Array, "..."], bowl_width: float = 0.5) -> Float[Array, "..."]:
    """Half-Huber ReLU: 0 below 0, a parabola up to the bowl width d, then the line x - d/2.

    Its slope clip(x, 0, d)/d is continuous and its second derivative is 1/d inside the bowl, so
    that the Lipschitz penalty, which differentiates through the input gradient, sees curvature
    where a plain ReLU has none.

    Args:
        x: values of any shape.
        bowl_width: d > 0, the width of the parabola (the paper uses 0.5).
    """
    inside = jnp.clip(x, 0, bowl_width)
    return inside * (x - 0.5 * inside) / bowl_width


@half_huber_relu.defjvp
def _half_huber_relu_jvp(bowl_width: float, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    return half_huber_relu(x, bowl_width), half_huber_slope(x, bowl_width) * tangent


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def half_huber_slope(x: Float[Array, "..."], bowl_width: float) -> Float[Array, "..."]:
    """Slope of the Half-Huber ReLU, clip(x, 0, d)/d."""
    return jnp.clip(x, 0, bowl_width) / bowl_width


@half_huber_slope.defjvp
def _half_huber_slope_jvp(bowl_width: float, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # Written out because jnp.clip would split its derivative at the two ends of the bowl.
    (x,), (tangent,) = primals, tangents
    inside = (x > 0) & (x < bowl_width)
    return half_huber_slope(x, bowl_width), jnp.where(inside, tangent / bowl_width, 0)
