"""VarGrad (Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim 2018, arXiv 1810.03292)."""

from flax import struct
from jaxtyping import Array

from advx_jax.analysis.attribution.base import Attributions
from advx_jax.analysis.attribution.noisy import Noisy
from advx_jax.attacks.arrays import Images, Keys, Labels
from advx_jax.attacks.base import Model


@struct.dataclass(kw_only=True)
class VarGrad(Noisy):
    """a = (1/n) Σ (g_i - ḡ)², g_i = ∂z_t/∂x (x + σε_i): the variance of the gradient around the image.

    It is never negative: it says where the logit is sensitive, not in which direction.
    """

    def attribute(self, model: Model, images: Images, targets: Labels, keys: Keys) -> Attributions:
        """See `Attribution.attribute`."""

        # By Welford's recurrence: the mean square less the square of the mean loses all digits where noise is small.
        def add(state: tuple[Array, Array], number: Array, attributions: Array) -> tuple[Array, Array]:
            mean, squares = state
            away = attributions - mean
            mean = mean + away / (number + 1)
            return mean, squares + away * (attributions - mean)

        _, squares = self._over_samples(model, images, targets, keys, lambda zeros: (zeros, zeros), add)
        return squares / self.samples
