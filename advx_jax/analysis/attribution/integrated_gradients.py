"""Integrated Gradients (Sundararajan, Taly, Yan 2017, arXiv 1703.01365)."""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from advx_jax.analysis.attribution.base import (
    GRADIENT_PASSES,
    Attribution,
    Attributions,
    target_gradients,
    target_logits,
)
from advx_jax.analysis.attribution.baselines import Baseline, baseline_images
from advx_jax.attacks.arrays import Images, Keys, Labels, Values
from advx_jax.attacks.base import Model, Number, example_keys
from advx_jax.attacks.checks import ImagesLike, LabelsLike
from advx_jax.errors import UserError

Rule = Literal["squares", "midpoint", "gauss_legendre"]


@struct.dataclass(kw_only=True)
class IntegratedGradients(Attribution):
    """a = (x - b) ⊙ ∫₀¹ ∂z_t/∂x (b + α(x - b)) dα, from a baseline b to the image x.

    Its values add up to z_t(x) - z_t(b), up to the error of the integral (`completeness_gap`).

    Attributes:
        steps: points at which the gradient is taken, one after the other: memory does not depend on them.
        rule: how they are placed and weighted: "squares", the midpoint rule in the square root of α, for most of the
            change comes early on the path; "midpoint"; or "gauss_legendre", which gains nothing where ReLUs put kinks
            into the path.
        baseline: "black", "mean" (the image's own mean colour), "blurred" or "random" (noise, one draw for each image).
        blur: standard deviation in pixels with which "blurred" blurs.
    """

    steps: int = struct.field(pytree_node=False, default=64)
    rule: Rule = struct.field(pytree_node=False, default="squares")
    baseline: Baseline = struct.field(pytree_node=False, default="black")
    blur: Number = 4.0

    @property
    def name(self) -> str:
        """For people, tables and results."""
        return "integrated_gradients"

    @property
    def is_random(self) -> bool:
        """Only a random baseline is."""
        return self.baseline == "random"

    def passes(self, image_shape: tuple[int, ...]) -> int:
        """A gradient a step."""
        del image_shape
        return self.steps * GRADIENT_PASSES

    def check(self, image_shape: tuple[int, ...]) -> None:
        """Refuse to blur what has no height and width."""
        super().check(image_shape)
        if self.baseline == "blurred" and len(image_shape) != 3:
            raise UserError(
                "expected images of shape (batch, height, width, channels) for the baseline blurred, "
                f"got images of shape {image_shape} each"
            )

    def baselines(self, images: ImagesLike, key: Key[Array, "..."] | None = None) -> Images:
        """The baseline of each image.

        Args:
            images: x.
            key: as for the attribution that they belong to.
        """
        x = jnp.asarray(images)
        return baseline_images(self.baseline, x, example_keys(key, jnp.arange(len(x))), self.blur)

    def attribute(self, model: Model, images: Images, targets: Labels, keys: Keys) -> Attributions:
        """See `Attribution.attribute`."""
        baselines = self.baselines(images, keys)
        way = images - baselines

        def step(total: Array, point: tuple[Array, Array]) -> tuple[Array, None]:
            place, weight = point
            return total + weight * target_gradients(model, baselines + place * way, targets), None

        places, weights = _points(self.rule, self.steps)
        points = jnp.asarray(places, images.dtype), jnp.asarray(weights, images.dtype)
        total, _ = lax.scan(step, jnp.zeros_like(images), points)
        return way * total


def completeness_gap(
    model: Model, images: ImagesLike, targets: LabelsLike, attributions: ArrayLike, baselines: ImagesLike
) -> Values:
    """How far attributions are from adding up to the change of the logit: |Σa - Δ|/|Δ|, Δ = z_t(x) - z_t(b).

    Args:
        model: images to logits.
        images: x.
        targets: a class for each image.
        attributions: of the images to these targets.
        baselines: b, as `IntegratedGradients.baselines` gives them.

    Returns:
        Of each image; 0 is complete. Where the logit does not change at all, infinite or NaN.
    """
    of_image, of_baseline = (target_logits(model, jnp.asarray(x), jnp.asarray(targets)) for x in (images, baselines))
    change = of_image - of_baseline
    return distance_from_sum(jnp.asarray(attributions), change) / jnp.abs(change)


def distance_from_sum(attributions: Attributions, change: Values) -> Values:
    """|Σa - Δ| of each image, for the change Δ of the score that its attributions should add up to."""
    return jnp.abs(attributions.sum(tuple(range(1, attributions.ndim))) - change)


def _points(rule: Rule, steps: int) -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, " steps"]]:
    """Places in [0,1] and weights that add up to 1."""
    middles = (np.arange(steps) + 0.5) / steps
    if rule == "squares":
        return middles**2, 2 * middles / steps
    if rule == "midpoint":
        return middles, np.full(steps, 1 / steps)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return (nodes + 1) / 2, weights / 2
