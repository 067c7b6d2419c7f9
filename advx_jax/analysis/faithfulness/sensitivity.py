"""Sensitivity: how much an attribution changes when the image hardly does.

From "On the (in)fidelity and sensitivity of explanations" (Yeh, Hsieh, Suggala, Inouye and Ravikumar 2019,
arXiv 1901.09392), definition 3.1; relative to the attribution's own norm, as in the authors' code, since methods have
no common scale.
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from advx_jax.analysis.faithfulness.base import Cost, Method, Metric
from advx_jax.attacks.arrays import Images, Keys, Labels, Perturbations, Values
from advx_jax.attacks.base import Model, fold_in_all
from advx_jax.attacks.projections import l2_norm


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sensitivity(Metric):
    """Base of what is made of ‖φ(x + u) - φ(x)‖ / ‖φ(x)‖ for u uniform in [-r, r] for each value.

    A method that draws is given the same key at all points, so that only the image differs. Points are not clipped
    to [0,1].

    Attributes:
        n_samples: how many points.
        radius: r, on the images' scale.
    """

    higher_is_better = False
    takes_method = True
    n_samples: int = 10
    radius: float = 0.02

    def cost(self, model: Model, image_shape: tuple[int, ...]) -> Cost:
        """An attribution for each point, and one for the image."""
        del model, image_shape
        return Cost(0, self.n_samples + 1)

    def drawn(self, keys: Keys, index: int | Array, like: Images) -> Perturbations:
        """The u of that index."""

        def uniform(key: Array) -> Array:
            return jax.random.uniform(key, like.shape[1:], like.dtype, -self.radius, self.radius)

        return jax.vmap(uniform)(fold_in_all(keys, index))

    @abc.abstractmethod
    def summary(self, changes: Float[Array, "samples batch"]) -> Values:
        """The number of each example, of its relative changes."""

    def measure(self, model: Model, images: Images, targets: Labels, explained: Method, keys: Keys) -> Values:
        """The changes' number; NaN where the attribution is 0."""
        here = explained(model, images, targets, keys)

        def look(_: None, index: Array) -> tuple[None, Array]:
            there = explained(model, images + self.drawn(keys, index, images), targets, keys)
            return None, l2_norm(there - here)

        changes, size = lax.scan(look, None, jnp.arange(self.n_samples))[1], l2_norm(here)
        # By 0 even a change would be divided, and be infinite.
        return jnp.where(size > 0, self.summary(changes / jnp.where(size > 0, size, 1)), jnp.nan)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaxSensitivity(Sensitivity):
    """max_u ‖φ(x + u) - φ(x)‖ / ‖φ(x)‖, of those u that are drawn: a lower bound."""

    name: str = "max_sensitivity"

    def summary(self, changes: Array) -> Values:
        """The largest."""
        return changes.max(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AverageSensitivity(Sensitivity):
    """E_u ‖φ(x + u) - φ(x)‖ / ‖φ(x)‖."""

    name: str = "average_sensitivity"

    def summary(self, changes: Array) -> Values:
        """The mean."""
        return changes.mean(0)
