"""The gradient weighted by the image (Shrikumar, Greenside, Shcherbina, Kundaje 2016, arXiv 1605.01713)."""

from flax import struct

from advx_jax.analysis.attribution.base import Attribution, Attributions, target_gradients
from advx_jax.attacks.arrays import Images, Keys, Labels
from advx_jax.attacks.base import Model


@struct.dataclass(kw_only=True)
class InputXGradient(Attribution):
    """a = x ⊙ ∂z_t/∂x: of a linear model each value's share in the logit. Black counts for nothing."""

    @property
    def name(self) -> str:
        """For people, tables and results."""
        return "input_x_gradient"

    def attribute(self, model: Model, images: Images, targets: Labels, keys: Keys) -> Attributions:
        """See `Attribution.attribute`."""
        del keys
        return images * target_gradients(model, images, targets)
