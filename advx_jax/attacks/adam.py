"""Adam's direction (Kingma and Ba 2015, arXiv 1412.6980, algorithm 1), as attacks step along it."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from advx_jax.attacks.arrays import Images, Perturbations

# The paper's β₁, β₂ and ε.
_FIRST_DECAY, _SECOND_DECAY, _DAMPING = 0.9, 0.999, 1e-8


class Moments(NamedTuple):
    """Moving averages of gradients.

    Attributes:
        first: of themselves.
        second: of their squares.
    """

    first: Perturbations
    second: Perturbations


class Descent(NamedTuple):
    """Where to go.

    Attributes:
        direction: uphill, about 1 long in each value.
        scale: what each value of the averaged gradient was divided by.
    """

    direction: Perturbations
    scale: Perturbations


def no_moments(images: Images) -> Moments:
    """Before the first gradient."""
    return Moments(jnp.zeros_like(images), jnp.zeros_like(images))


def adam(moments: Moments, gradient: Perturbations, step: Int[Array, ""]) -> tuple[Moments, Descent]:
    """Take in a gradient.

    Args:
        moments: of those before it.
        gradient: at this step.
        step: how many there were before it.
    """
    first = moments.first + (1 - _FIRST_DECAY) * (gradient - moments.first)
    second = _SECOND_DECAY * moments.second + (1 - _SECOND_DECAY) * jnp.square(gradient)
    count = (step + 1).astype(gradient.dtype)
    scale = jnp.sqrt(second / (1 - _SECOND_DECAY**count)) + _DAMPING
    return Moments(first, second), Descent(first / (1 - _FIRST_DECAY**count) / scale, scale)
