"""Infidelity: how badly an attribution predicts what a perturbation does to the output.

From "On the (in)fidelity and sensitivity of explanations" (Yeh, Hsieh, Suggala, Inouye and Ravikumar 2019,
arXiv 1901.09392), definition 2.1.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from advx_jax.analysis.faithfulness.base import Attributions, Cost, Metric
from advx_jax.analysis.faithfulness.baselines import Baseline, baseline_images
from advx_jax.analysis.faithfulness.outputs import Output, class_output
from advx_jax.attacks.arrays import Images, Keys, Labels, Perturbations, Values
from advx_jax.attacks.base import Model, fold_in_all
from advx_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Infidelity(Metric):
    """E_I[ (Iᵀφ - (f_t(x) - f_t(x - I)))² ] over random perturbations I.

    An attribution of pixels (without channels) is spread over its pixel's channels in equal parts.

    Attributes:
        n_samples: how many perturbations.
        perturbation: "gaussian" noise on all values, or a "square" at a random place replaced by the baseline.
        sigma: of the noise, on the images' scale.
        side: of the square, in pixels.
        baseline: of the square: "black", "mean" or "blurred".
        contributions: attributions are parts of the output rather than its slopes: (x - baseline) times a slope, as
            integrated gradients and input × gradient are. Iᵀφ is then the sum of φ over the square.
        scaled: with the φ of each example multiplied by the one number that fits best, Σ(Iᵀφ·Δf) / Σ(Iᵀφ)²,
            as the authors do to compare methods whose attributions have no scale.
        output: "logit" or "probability".
    """

    higher_is_better = False
    name: str = "infidelity"
    n_samples: int = 100
    perturbation: Literal["gaussian", "square"] = "gaussian"
    sigma: float = 0.2
    side: int = 4
    baseline: Baseline = "black"
    contributions: bool = False
    scaled: bool = False
    output: Output = "logit"

    def __post_init__(self) -> None:
        """Refuse settings that do not go together.

        Raises:
            UserError: in one line.
        """
        super().__post_init__()
        if self.contributions and self.perturbation != "square":
            raise UserError("expected perturbation='square' with contributions=True, got 'gaussian'")

    def check(self, model: Model, image_shape: tuple[int, ...], explained: Any) -> None:
        """Refuse images that are smaller than the square.

        Raises:
            UserError: they are.
        """
        super().check(model, image_shape, explained)
        if self.perturbation == "square" and self.side > min(image_shape[:2]):
            raise UserError(f"expected a side of at most {min(image_shape[:2])} pixels, got {self.side}")

    def cost(self, model: Model, image_shape: tuple[int, ...]) -> Cost:
        """A pass for each perturbation, and one for the image."""
        del model, image_shape
        return Cost(self.n_samples + 1)

    def drawn(self, keys: Keys, index: int | Array, like: Images) -> Perturbations:
        """Of the perturbation of that index: the noise itself, or 1 in the square and 0 elsewhere."""
        height, width, _ = like.shape[1:]

        def noise(key: Array) -> Array:
            return self.sigma * jax.random.normal(key, like.shape[1:], like.dtype)

        def square(key: Array) -> Array:
            corner = jax.random.randint(key, (2,), 0, jnp.array([height, width]) - self.side + 1)
            rows, columns = jnp.arange(height) - corner[0], jnp.arange(width) - corner[1]
            inside = [(places >= 0) & (places < self.side) for places in (rows, columns)]
            both = inside[0][:, None, None] & inside[1][None, :, None]
            return jnp.broadcast_to(both, like.shape[1:]).astype(like.dtype)

        return jax.vmap(noise if self.perturbation == "gaussian" else square)(fold_in_all(keys, index))

    def measure(self, model: Model, images: Images, targets: Labels, explained: Attributions, keys: Keys) -> Values:
        """The mean of the squares."""
        whole = class_output(self.output, model, images, targets)
        channels = images.shape[-1]
        slopes = explained if explained.ndim == 4 else explained[..., None] / channels
        difference = images - baseline_images(self.baseline, images)

        def look(_: None, index: Array) -> tuple[None, tuple[Array, Array]]:
            draw = self.drawn(keys, index, images)
            change = draw if self.perturbation == "gaussian" else draw * difference
            weights = draw if self.contributions else change
            told = (weights * slopes).sum((1, 2, 3))
            return None, (told, whole - class_output(self.output, model, images - change, targets))

        _, (told, fall) = lax.scan(look, None, jnp.arange(self.n_samples))
        if self.scaled:
            square = jnp.square(told).sum(0)
            factor = jnp.where(square > 0, (told * fall).sum(0) / jnp.where(square > 0, square, 1), 0)
            told = told * factor
        return jnp.square(told - fall).mean(0)
