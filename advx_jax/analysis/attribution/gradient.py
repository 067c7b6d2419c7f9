"""The gradient of a class's logit (saliency; Simonyan, Vedaldi, Zisserman 2013, arXiv 1312.6034)."""

from flax import struct

from advx_jax.analysis.attribution.base import Attribution, Attributions, target_gradients
from advx_jax.attacks.arrays import Images, Keys, Labels
from advx_jax.attacks.base import Model


@struct.dataclass(kw_only=True)
class Gradient(Attribution):
    """a = ∂z_t/∂x, with its sign: how much the logit rises with each value of the image."""

    def attribute(self, model: Model, images: Images, targets: Labels, keys: Keys) -> Attributions:
        """See `Attribution.attribute`."""
        del keys
        return target_gradients(model, images, targets)
