"""Norms of perturbations, and the nearest perturbations in a ball or in the box of valid images.

Everything is per example. These are plain norms, as the field states its bounds in; `norms.py` has the
root mean square of the paper: L2 = RMS·√n for n values an example.
"""

from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from advx_jax.attacks.arrays import Images, Perturbations, Values
from advx_jax.attacks.norms import per_example

Norm = Literal["L2", "Linf"]
"""As the field names them."""

NormLike = Any
"""A norm in any spelling, "L2", "l2", "Linf", "inf" or infinity; settings hold it in the field's."""

Radius = float | Float[Array, ""] | Values
"""Of a ball: one for all examples, or one for each."""


def l2_norm(v: Perturbations) -> Values:
    """Euclidean norm of each example; exact also where squares would underflow or overflow."""
    largest = linf_norm(v)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return scale * jnp.sqrt(jnp.square(v / per_example(scale, v)).sum(tuple(range(1, v.ndim))))


def linf_norm(v: Perturbations) -> Values:
    """Largest absolute value of each example."""
    return jnp.abs(v).max(tuple(range(1, v.ndim)))


def size(norm: Norm, v: Perturbations) -> Values:
    """Norm of each example."""
    return l2_norm(v) if norm == "L2" else linf_norm(v)


def dual_size(norm: Norm, v: Perturbations) -> Values:
    """Dual norm of each example: the most that v·δ can be for a δ of norm 1."""
    return l2_norm(v) if norm == "L2" else jnp.abs(v).sum(tuple(range(1, v.ndim)))


def project(norm: Norm, delta: Perturbations, eps: Radius) -> Perturbations:
    """Bring each perturbation into the ball of radius eps; one inside it does not change. None is below 0."""
    eps = jnp.maximum(eps, 0)
    return project_l2(delta, eps) if norm == "L2" else project_linf(delta, eps)


def project_l2(delta: Perturbations, eps: Radius) -> Perturbations:
    """Shrink each perturbation onto the L2 ball of radius eps; one inside it does not change."""
    norm = l2_norm(delta)
    outside = norm > eps
    factor = jnp.where(outside, eps / jnp.where(outside, norm, 1), 1)
    return delta * per_example(factor.astype(delta.dtype), delta)


def project_linf(delta: Perturbations, eps: Radius) -> Perturbations:
    """Clip each perturbation to [-eps, eps]."""
    bound = per_example(jnp.broadcast_to(jnp.asarray(eps, delta.dtype), delta.shape[:1]), delta)
    return jnp.clip(delta, -bound, bound)


def clip_to_box(images: Images, delta: Perturbations) -> Perturbations:
    """Change perturbations so that x + δ lies in [0,1]; x + the result may round by one unit in the last place."""
    return clipped(images, images + delta) - images


def clipped(images: Images, points: Images) -> Images:
    """Bring points into [0,1], or as far out of it as their images are: they only move towards their images.

    So a point in a ball around its image stays there, also where the image itself is not in [0,1].
    """
    return jnp.clip(points, jnp.minimum(images, 0), jnp.maximum(images, 1))


def unit_l2(v: Perturbations) -> Perturbations:
    """Scale each example to L2 norm 1, however small it is; zero stays zero."""
    norm = l2_norm(v)
    return v / per_example(jnp.where(norm > 0, norm, 1), v)
