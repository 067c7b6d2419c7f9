"""The size of another method's values: where it points at, whatever the direction."""

import jax.numpy as jnp
from flax import struct

from advx_jax.analysis.attribution.base import Attribution, Attributions, as_attribution
from advx_jax.analysis.attribution.gradient import Gradient
from advx_jax.attacks.arrays import Images, Keys, Labels
from advx_jax.attacks.base import Model


@struct.dataclass(kw_only=True)
class Magnitude(Attribution):
    """|a|: of the gradient, the saliency map of Simonyan, Vedaldi and Zisserman 2014 (arXiv 1312.6034).

    A gradient or a difference map says in which direction a value should change; how much a value matters, which is
    what metrics that remove pixels ask, is their size.

    Attributes:
        of: the method whose values are taken.
    """

    of: Attribution = Gradient()

    @property
    def name(self) -> str:
        """For people, tables and results."""
        return "saliency" if isinstance(self.of, Gradient) else f"{self.of.name}_magnitude"

    @property
    def is_random(self) -> bool:
        """As the method that it takes them from."""
        return self.of.is_random

    @property
    def is_spatial(self) -> bool:
        """As the method that it takes them from."""
        return self.of.is_spatial

    def passes(self, image_shape: tuple[int, ...]) -> int:
        """Those of the method."""
        return self.of.passes(image_shape)

    def check(self, image_shape: tuple[int, ...]) -> None:
        """Check the method that it takes them from, too."""
        as_attribution(self.of)
        super().check(image_shape)
        self.of.check(image_shape)

    def attribute(self, model: Model, images: Images, targets: Labels, keys: Keys) -> Attributions:
        """See `Attribution.attribute`."""
        return jnp.abs(self.of.attribute(model, images, targets, keys))
