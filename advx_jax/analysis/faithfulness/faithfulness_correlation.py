"""Faithfulness correlation: whether the output falls by what the attributions of removed pixels add up to.

From "Evaluating and aggregating feature-based model explanations" (Bhatt, Weller and Moura 2020, arXiv 2005.00631),
section 3.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from advx_jax.analysis.faithfulness.base import Attributions, Cost, Metric
from advx_jax.analysis.faithfulness.baselines import Baseline, baseline_images
from advx_jax.analysis.faithfulness.outputs import Output, class_output
from advx_jax.analysis.faithfulness.rank_correlation import pearson
from advx_jax.analysis.faithfulness.units import Unit, Units
from advx_jax.attacks.arrays import Images, Keys, Labels, Values
from advx_jax.attacks.base import Model, fold_in_all


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaithfulnessCorrelation(Metric):
    """corr_S( Σ_{i∈S} φ_i , f_t(x) - f_t(x with x_S replaced by the baseline) ), over random subsets S of one size.

    Attributes:
        n_subsets: how many subsets.
        subset: share of the units in each.
        unit: "value", "pixel" or "patch".
        patch: side of a patch in pixels.
        baseline: "black", "mean" or "blurred".
        output: "logit" or "probability".
    """

    higher_is_better = True
    name: str = "faithfulness_correlation"
    n_subsets: int = 100
    subset: float = 0.1
    unit: Unit = "pixel"
    patch: int = 4
    baseline: Baseline = "black"
    output: Output = "logit"

    def check(self, model: Model, image_shape: tuple[int, ...], explained: Any) -> None:
        """Refuse attributions of pixels where units are single values.

        Raises:
            UserError: in one line.
        """
        super().check(model, image_shape, explained)
        Units(self.unit, self.patch, image_shape).check(explained.shape)

    def cost(self, model: Model, image_shape: tuple[int, ...]) -> Cost:
        """A pass for each subset, and one for the image."""
        del model, image_shape
        return Cost(self.n_subsets + 1)

    def drawn(self, keys: Keys, index: int | Array, units: Units) -> Bool[Array, "batch units"]:
        """The subset of that index for each example."""
        size = max(1, round(self.subset * units.n_units))
        permuted = jax.vmap(lambda key: jax.random.permutation(key, units.n_units))(fold_in_all(keys, index))
        return permuted < size

    def measure(self, model: Model, images: Images, targets: Labels, explained: Attributions, keys: Keys) -> Values:
        """The correlation; NaN where either side is the same for all subsets."""
        units = Units(self.unit, self.patch, images.shape[1:])
        scores, baseline = units.scores(explained), baseline_images(self.baseline, images)
        whole = class_output(self.output, model, images, targets)

        def look(_: None, index: Array) -> tuple[None, tuple[Array, Array]]:
            chosen = self.drawn(keys, index, units)
            without = jnp.where(units.mask(chosen), baseline, images)
            fall = whole - class_output(self.output, model, without, targets)
            return None, (jnp.where(chosen, scores, 0).sum(-1), fall)

        _, (sums, falls) = lax.scan(look, None, jnp.arange(self.n_subsets))
        return pearson(sums.T, falls.T.astype(sums.dtype))
