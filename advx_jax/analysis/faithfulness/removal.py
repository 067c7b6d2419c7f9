"""Areas under the curve of the target's probability while pixels are removed or put in, the most important first.

From "RISE: randomized input sampling for explanation of black-box models" (Petsiuk, Das and Saenko 2018,
arXiv 1806.07421), section 4.
"""

import abc
import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from advx_jax.analysis.faithfulness.base import Attributions, Cost, Metric
from advx_jax.analysis.faithfulness.baselines import Baseline, baseline_images
from advx_jax.analysis.faithfulness.outputs import Output, class_output
from advx_jax.analysis.faithfulness.units import Unit, Units, places_from_the_largest
from advx_jax.attacks.arrays import Images, Keys, Labels, Values
from advx_jax.attacks.base import Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Removal(Metric):
    """Base of metrics that replace units of an image by a baseline, in the order of their attributions.

    Attributes:
        unit: what is replaced as one: "value", "pixel" or "patch".
        patch: side of a patch in pixels.
        steps: how many evaluations after the first; no more than there are units.
        baseline: what takes their place: "black", "mean" or "blurred".
        output: the number that is looked at: "probability" or "logit".
    """

    puts_in: ClassVar[bool] = False
    """Whether units come back into the baseline, rather than leave the image."""

    unit: Unit = "pixel"
    patch: int = 4
    steps: int = 64
    baseline: Baseline = "black"
    output: Output = "probability"

    def check(self, model: Model, image_shape: tuple[int, ...], explained: Any) -> None:
        """Refuse attributions of pixels where units are single values.

        Raises:
            UserError: in one line.
        """
        super().check(model, image_shape, explained)
        Units(self.unit, self.patch, image_shape).check(explained.shape)

    def counts(self, image_shape: tuple[int, ...]) -> Int[np.ndarray, " points"]:
        """How many units have been replaced at each point of the curve, from none to all."""
        count = Units(self.unit, self.patch, image_shape).n_units
        return np.rint(np.linspace(0, count, min(self.steps, count) + 1)).astype(np.int32)

    def cost(self, model: Model, image_shape: tuple[int, ...]) -> Cost:
        """A pass for each point of the curve."""
        del model
        return Cost(len(self.counts(image_shape)))

    def curve(
        self, model: Model, images: Images, targets: Labels, attributions: Attributions
    ) -> Float[Array, "batch points"]:
        """The output after each step, from the whole image (or the whole baseline, if units are put in)."""
        units = Units(self.unit, self.patch, images.shape[1:])
        places = places_from_the_largest(units.scores(attributions))
        start, end = images, baseline_images(self.baseline, images)
        if self.puts_in:
            start, end = end, start

        def at(_: None, count: Array) -> tuple[None, Array]:
            points = jnp.where(units.mask(places < count), end, start)
            return None, class_output(self.output, model, points, targets)

        return lax.scan(at, None, jnp.asarray(self.counts(images.shape[1:])))[1].T

    @abc.abstractmethod
    def summary(self, curve: Float[Array, "batch points"], shares: Float[Array, " points"]) -> Values:
        """The number of each curve; `shares` of the units have been replaced at its points."""

    def measure(self, model: Model, images: Images, targets: Labels, explained: Attributions, keys: Keys) -> Values:
        """The curve's number."""
        del keys
        counts = self.counts(images.shape[1:])
        return self.summary(self.curve(model, images, targets, explained), jnp.asarray(counts / counts[-1]))


def area(curve: Float[Array, "batch points"], shares: Float[Array, " points"]) -> Values:
    """Area under each curve by the trapezoidal rule, over the share of units from 0 to 1."""
    widths = jnp.diff(shares).astype(curve.dtype)
    return ((curve[:, 1:] + curve[:, :-1]) / 2 * widths).sum(-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deletion(Removal):
    """∫₀¹ f_t(x without its most important share s) ds: small if what is most important is taken away first."""

    higher_is_better = False
    name: str = "deletion"

    def summary(self, curve: Array, shares: Array) -> Values:
        """The area."""
        return area(curve, shares)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Insertion(Removal):
    """∫₀¹ f_t(baseline with the most important share s of x) ds: large if what is most important comes back first.

    The baseline is the blurred image, as published.
    """

    higher_is_better = True
    puts_in = True
    name: str = "insertion"
    baseline: Baseline = "blurred"

    def summary(self, curve: Array, shares: Array) -> Values:
        """The area."""
        return area(curve, shares)
