"""ROAD, remove and debias: whether the classifier still sees the target once pixels are imputed from their neighbours.

From "A consistent and efficient evaluation strategy for attribution methods" (Rong, Leemann, Borisov, Kasneci and
Kasneci 2022, arXiv 2202.00449).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from advx_jax.analysis.faithfulness.base import Attributions, Cost, Metric
from advx_jax.analysis.faithfulness.imputation import imputed
from advx_jax.analysis.faithfulness.units import Units, places_from_the_largest
from advx_jax.attacks.arrays import Images, Keys, Labels, Values
from advx_jax.attacks.base import Model, fold_in_all

TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ROAD(Metric):
    """Mean over shares s of [argmax f(x with its s most important pixels imputed) = t]; low if they did matter.

    Its mean over images is the mean of the paper's accuracies.

    Attributes:
        fractions: the shares.
        noise: standard deviation of what is added to imputed values.
    """

    higher_is_better = False
    least_first: ClassVar[bool] = False
    """Whether the least important pixels are removed instead."""

    name: str = "road"
    fractions: tuple[float, ...] = TENTHS
    noise: float = 0.01

    def cost(self, model: Model, image_shape: tuple[int, ...]) -> Cost:
        """A pass for each share."""
        del model, image_shape
        return Cost(len(self.fractions))

    def drawn(self, keys: Keys, index: int | Array, like: Images) -> Float[Array, "batch height width channels"]:
        """The noise of the share of that index."""

        def normal(key: Array) -> Array:
            return jax.random.normal(key, like.shape[1:], like.dtype)

        return self.noise * jax.vmap(normal)(fold_in_all(keys, index))

    def hits(
        self, model: Model, images: Images, targets: Labels, attributions: Attributions, keys: Keys
    ) -> Bool[Array, "batch fractions"]:
        """Whether the target is still the largest, after each share."""
        units = Units("pixel", 1, images.shape[1:])
        scores = units.scores(attributions)
        places = places_from_the_largest(-scores if self.least_first else scores)
        # Of 0.3·10 pixels 3 are meant, whatever 0.3 is to the last bit.
        counts = jnp.array([int(round(fraction * units.n_units, 6)) for fraction in self.fractions])

        def look(_: None, at: tuple[Array, Array]) -> tuple[None, Array]:
            index, count = at
            removed = units.mask(places < count)
            filled = imputed(images, removed) + jnp.where(removed, self.drawn(keys, index, images), 0)
            logits = model(filled)
            # NaN has no largest logit, though argmax names one.
            return None, (logits.argmax(-1) == targets) & ~jnp.isnan(logits).any(-1)

        return lax.scan(look, None, (jnp.arange(len(counts)), counts))[1].T

    def measure(self, model: Model, images: Images, targets: Labels, explained: Attributions, keys: Keys) -> Values:
        """The mean of the hits."""
        return self.hits(model, images, targets, explained, keys).mean(-1, dtype=images.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ROADLeastFirst(ROAD):
    """The same with the least important pixels removed (LeRF); high if they did not matter."""

    higher_is_better = True
    least_first = True
    name: str = "road_least_first"
