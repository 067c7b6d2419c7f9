"""A control: values that know nothing of the network. What scores no better than they do explains nothing."""

import jax
from flax import struct

from advx_jax.analysis.attribution.base import Attribution, Attributions
from advx_jax.attacks.arrays import Images, Keys, Labels
from advx_jax.attacks.base import Model


@struct.dataclass(kw_only=True)
class RandomValues(Attribution):
    """a = ε, standard normal: any order of the values is as likely as any other."""

    @property
    def name(self) -> str:
        """For people, tables and results."""
        return "random"

    @property
    def is_random(self) -> bool:
        """It is nothing else."""
        return True

    def passes(self, image_shape: tuple[int, ...]) -> int:
        """None."""
        del image_shape
        return 0

    def attribute(self, model: Model, images: Images, targets: Labels, keys: Keys) -> Attributions:
        """See `Attribution.attribute`."""
        del model, targets
        return jax.vmap(lambda key: jax.random.normal(key, images.shape[1:], images.dtype))(keys)
