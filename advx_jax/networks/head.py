"""The last layer: class scores of features, the same for an image whatever it is computed with."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float


def products(
    features: Float[Array, "batch features"], kernel: Float[Array, "features classes"]
) -> Float[Array, "batch classes"]:
    """Matrix product whose rows do not depend on how many there are.

    On a CPU, XLA rounds a small matrix product otherwise for one row than for several, with 3 classes for up to 3 rows,
    and with a hundred for any number. A sum of products costs more, but next to nothing beside a network.
    """
    return lax.platform_dependent(
        features,
        kernel,
        cpu=lambda features, kernel: (features[:, :, None] * kernel[None]).sum(1),
        default=lambda features, kernel: jnp.dot(features, kernel, precision=lax.Precision.HIGHEST),
    )


class Head(nn.Module):
    """Linear layer, with `flax.linen.Dense`'s parameters.

    Attributes:
        n_classes: K.
        use_bias: whether to add one.
        kernel_init: initialiser of the (features, K) kernel.
    """

    n_classes: int
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, features: Float[Array, "batch features"]) -> Float[Array, "batch classes"]:
        """Class scores of features."""
        kernel = self.param("kernel", self.kernel_init, (features.shape[-1], self.n_classes), jnp.float32)
        # Parameters may be of NumPy.
        scores = products(features, jnp.asarray(kernel))
        if not self.use_bias:
            return scores
        bias = self.param("bias", jax.nn.initializers.zeros, (self.n_classes,), jnp.float32)
        return scores + jnp.asarray(bias)[None]
