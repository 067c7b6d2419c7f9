"""Completeness: whether attributions add up to the difference that they explain.

From "Axiomatic attribution for deep networks" (Sundararajan, Taly and Yan 2017, arXiv 1703.01365), proposition 1.
"""

import dataclasses

import jax.numpy as jnp

from advx_jax.analysis.attribution.integrated_gradients import distance_from_sum
from advx_jax.analysis.faithfulness.base import Attributions, Cost, Metric
from advx_jax.analysis.faithfulness.baselines import Baseline, baseline_images
from advx_jax.analysis.faithfulness.outputs import Output, class_output
from advx_jax.attacks.arrays import Images, Keys, Labels, Values
from advx_jax.attacks.base import Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Completeness(Metric):
    """|Σ_i φ_i - (f_t(x) - f_t(baseline))| / |f_t(x) - f_t(baseline)|: 0 where attributions are complete.

    Attributes:
        baseline: of the method: "black", "mean" or "blurred".
        output: what the method explains: "logit" or "probability".
        relative: divided by the difference; otherwise the gap itself.
    """

    higher_is_better = False
    name: str = "completeness"
    baseline: Baseline = "black"
    output: Output = "logit"
    relative: bool = True

    def cost(self, model: Model, image_shape: tuple[int, ...]) -> Cost:
        """The image and its baseline."""
        del model, image_shape
        return Cost(2)

    def measure(self, model: Model, images: Images, targets: Labels, explained: Attributions, keys: Keys) -> Values:
        """The gap; if relative, infinite where there is no difference to explain and yet a gap."""
        del keys
        points = (images, baseline_images(self.baseline, images))
        image, baseline = (class_output(self.output, model, point, targets) for point in points)
        gap = distance_from_sum(explained, image - baseline)
        return gap / jnp.abs(image - baseline) if self.relative else gap
