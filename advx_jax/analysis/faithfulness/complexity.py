"""How much of an image an attribution points at: entropy and Gini index; no model is looked at."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from advx_jax.analysis.faithfulness.base import Attributions, Cost, Metric
from advx_jax.attacks.arrays import Images, Keys, Labels, Values
from advx_jax.attacks.base import Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfAttributionAlone(Metric):
    """Base of metrics that look at no model."""

    def cost(self, model: Model, image_shape: tuple[int, ...]) -> Cost:
        """Nothing."""
        del model, image_shape
        return Cost(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Complexity(OfAttributionAlone):
    """Entropy -Σ P_i ln P_i of the shares P_i = |φ_i| / Σ|φ_j|, in nats: 0 for one value, ln d for d equal ones.

    From "Evaluating and aggregating feature-based model explanations" (Bhatt, Weller and Moura 2020,
    arXiv 2005.00631), section 3.
    """

    higher_is_better = False
    name: str = "complexity"

    def measure(self, model: Model, images: Images, targets: Labels, explained: Attributions, keys: Keys) -> Values:
        """The entropy; NaN where all attributions are 0."""
        del model, images, targets, keys
        parts = _shares(explained)
        return -jnp.where(parts > 0, parts * jnp.log(jnp.where(parts > 0, parts, 1)), parts * 0).sum(-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sparseness(OfAttributionAlone):
    """Gini index of |φ|, Σ_k (2k - d - 1)·|φ|_(k) / (d·Σ|φ|), |φ|_(k) the k-th smallest of d.

    0 where all are equal, 1 - 1/d where only one is not 0. From "Concise explanations of neural networks using
    adversarial training" (Chalasani, Chen, Chowdhury, Jha and Wu 2020, arXiv 1810.06583), section 4.
    """

    higher_is_better = True
    name: str = "sparseness"

    def measure(self, model: Model, images: Images, targets: Labels, explained: Attributions, keys: Keys) -> Values:
        """The index; NaN where all attributions are 0."""
        del model, images, targets, keys
        parts = jnp.sort(_shares(explained), axis=-1)
        count = parts.shape[-1]
        return (((2 * jnp.arange(1, count + 1) - count - 1) / count).astype(parts.dtype) * parts).sum(-1)


def _shares(attributions: Attributions) -> Float[Array, "batch values"]:
    sizes = jnp.abs(attributions).reshape(len(attributions), -1)
    # By the largest first: a sum of tiny ones would underflow.
    sizes = sizes / sizes.max(-1, keepdims=True)
    return sizes / sizes.sum(-1, keepdims=True)
