"""Sizes of perturbations: the root mean square of one example, and vectors scaled by it."""

import jax.numpy as jnp
from jaxtyping import Array

from advx_jax.attacks.arrays import Perturbations, Values

_DAMPING = 1e-8


def mean_square(v: Perturbations) -> Values:
    """Mean of v² of each example, over all its values."""
    return jnp.square(v).mean(tuple(range(1, v.ndim)))


def rms(v: Perturbations) -> Values:
    """Root mean square of each example; for CIFAR-10, its L2 norm divided by √3072."""
    return jnp.sqrt(mean_square(v))


def per_example(values: Array, like: Array) -> Array:
    """Give an array with one value an example the axes that broadcasting against `like` needs."""
    return values.reshape(values.shape + (1,) * (like.ndim - 1))


def damped_unit(v: Perturbations) -> Perturbations:
    """Scale each example to RMS 1, as published: v / (1e-8 + RMS(v)), so that tiny ones stay short."""
    return v / (_DAMPING + per_example(rms(v), v))


def exact_unit(v: Perturbations) -> Perturbations:
    """Scale each example to RMS 1, however small it is; zero stays zero."""
    # Dividing by the largest entry first keeps the squares from underflowing.
    largest = jnp.abs(v).max(tuple(range(1, v.ndim)))
    scaled = v / per_example(jnp.where(largest > 0, largest, 1), v)
    size = rms(scaled)
    return scaled / per_example(jnp.where(size > 0, size, 1), v)
