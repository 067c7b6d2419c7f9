"""Expected Gradients (Erion, Janizek, Sturmfels, Lundberg, Lee 2021, arXiv 1906.10670)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array

from advx_jax.analysis.attribution.base import GRADIENT_PASSES, Attribution, Attributions, target_gradients
from advx_jax.attacks.arrays import Images, Keys, Labels
from advx_jax.attacks.base import Model, fold_in_all
from advx_jax.attacks.checks import checked_images
from advx_jax.attacks.norms import per_example
from advx_jax.errors import UserError


@struct.dataclass(kw_only=True)
class ExpectedGradients(Attribution):
    """a = E[(x - b) ⊙ ∂z_t/∂x (b + α(x - b))] over images b of a background set and α uniform in [0,1].

    It is Integrated Gradients over many baselines at once, none of which must stand for nothing. Its values add up to
    z_t(x) - E[z_t(b)], up to the error of the sample.

    Attributes:
        background: images (background, height, width, channels) in [0,1], such as some training images.
        samples: pairs of b and α, one after the other: memory does not depend on them.
    """

    background: Any = None
    samples: int = struct.field(pytree_node=False, default=100)

    @property
    def name(self) -> str:
        """For people, tables and results."""
        return "expected_gradients"

    @property
    def is_random(self) -> bool:
        """Images and places are drawn."""
        return True

    def passes(self, image_shape: tuple[int, ...]) -> int:
        """A gradient a sample."""
        del image_shape
        return self.samples * GRADIENT_PASSES

    def check(self, image_shape: tuple[int, ...]) -> None:
        """Refuse to work without a background, with one of other images, or one that is not in [0,1]."""
        super().check(image_shape)
        if self.background is None:
            raise UserError(
                "expected background images for expected_gradients, such as "
                "ExpectedGradients(background=images[:100]), got none"
            )
        shape = jnp.shape(self.background)
        if len(shape) != len(image_shape) + 1 or shape[1:] != image_shape or not shape[0]:
            raise UserError(f"expected background images of shape (number, {_inside(image_shape)}), got {shape}")
        checked_images(self.background, "background images")

    def attribute(self, model: Model, images: Images, targets: Labels, keys: Keys) -> Attributions:
        """See `Attribution.attribute`."""
        background = jnp.asarray(self.background, images.dtype)

        def step(total: Array, number: Array) -> tuple[Array, None]:
            draws = fold_in_all(keys, number)
            chosen = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(background)))(fold_in_all(draws, 0))
            places = jax.vmap(lambda key: jax.random.uniform(key, (), images.dtype))(fold_in_all(draws, 1))
            baselines = background[chosen]
            way = images - baselines
            gradients = target_gradients(model, baselines + per_example(places, way) * way, targets)
            return total + way * gradients, None

        total, _ = lax.scan(step, jnp.zeros_like(images), jnp.arange(self.samples))
        return total / self.samples


def _inside(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
