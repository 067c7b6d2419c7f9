"""SmoothGrad (Smilkov, Thorat, Kim, Viégas, Wattenberg 2017, arXiv 1706.03825)."""

from flax import struct

from advx_jax.analysis.attribution.base import Attributions
from advx_jax.analysis.attribution.noisy import Noisy
from advx_jax.attacks.arrays import Images, Keys, Labels
from advx_jax.attacks.base import Model


@struct.dataclass(kw_only=True)
class SmoothGrad(Noisy):
    """a = (1/n) Σ ∂z_t/∂x (x + σε), ε standard normal: the mean gradient around the image."""

    def attribute(self, model: Model, images: Images, targets: Labels, keys: Keys) -> Attributions:
        """See `Attribution.attribute`."""
        total = self._over_samples(
            model, images, targets, keys, lambda zeros: zeros, lambda total, _, attributions: total + attributions
        )
        return total / self.samples
