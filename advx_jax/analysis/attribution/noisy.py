"""What SmoothGrad and VarGrad share: attributions of the image under noise, one sample after the other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Int

from advx_jax.analysis.attribution.base import Attribution, Attributions, as_attribution
from advx_jax.analysis.attribution.gradient import Gradient
from advx_jax.attacks.arrays import Images, Keys, Labels
from advx_jax.attacks.base import Model, Number, fold_in_all


@struct.dataclass(kw_only=True)
class Noisy(Attribution):
    """Base of methods that look at an image under Gaussian noise.

    Attributes:
        sigma: standard deviation of the noise on the images' scale, [0,1]; noisy images are not clipped.
        samples: noisy images, one after the other: memory does not depend on them.
        of: the method whose attributions are taken; the gradient as published.
    """

    sigma: Number = 0.15
    samples: int = struct.field(pytree_node=False, default=50)
    of: Attribution = Gradient()

    @property
    def is_random(self) -> bool:
        """The noise is."""
        return True

    @property
    def is_spatial(self) -> bool:
        """As the method that it looks at."""
        return self.of.is_spatial

    def passes(self, image_shape: tuple[int, ...]) -> int:
        """Those of an attribution, a sample."""
        return self.samples * self.of.passes(image_shape)

    def check(self, image_shape: tuple[int, ...]) -> None:
        """Check the method that it looks at, too."""
        as_attribution(self.of)
        super().check(image_shape)
        self.of.check(image_shape)

    def _over_samples(
        self,
        model: Model,
        images: Images,
        targets: Labels,
        keys: Keys,
        begin: Callable[[Array], Any],
        add: Callable[[Any, Array, Array], Any],
    ) -> Any:
        """Go through the attributions of all samples: from `begin(zeros)` on by `add(state, number, attributions)`."""

        def attributed(number: Array | int) -> Attributions:
            noisy = images + self.sigma * sample_noise(keys, images, number)
            return self.of.attribute(model, noisy, targets, fold_in_all(fold_in_all(keys, number), 1))

        def step(state: Any, number: Array) -> tuple[Any, None]:
            return add(state, number, attributed(number)), None

        like = jax.eval_shape(attributed, 0)
        return lax.scan(step, begin(jnp.zeros(like.shape, like.dtype)), jnp.arange(self.samples))[0]


def sample_noise(keys: Keys, images: Images, number: int | Int[Array, ""]) -> Images:
    """The noise of one sample: standard normal values, before they are multiplied by sigma.

    Args:
        keys: of each example's random draws.
        images: only their shape and type count.
        number: of the sample.
    """
    draws = fold_in_all(fold_in_all(keys, number), 0)
    return jax.vmap(lambda key: jax.random.normal(key, images.shape[1:], images.dtype))(draws)
