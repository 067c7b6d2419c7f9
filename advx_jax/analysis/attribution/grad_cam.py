"""Grad-CAM (Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra 2017, arXiv 1610.02391)."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from advx_jax.analysis.attribution.base import Attribution, Attributions
from advx_jax.analysis.attribution.linen_layers import changed, spatial_layer
from advx_jax.attacks.arrays import Images, Keys, Labels
from advx_jax.attacks.ascent import at_least_float32
from advx_jax.attacks.base import Model
from advx_jax.errors import UserError


@struct.dataclass(kw_only=True)
class GradCAM(Attribution):
    """a_p = Σ_k w_k A_k(p), w_k = mean over p of ∂z_t/∂A_k(p), for the feature maps A_k of a layer.

    The layer is any module of a network in Flax Linen, of one's own as well. What speaks against the class is
    negative, where the paper cuts it off.

    Attributes:
        layer: path of the module, such as "stage3_block7" or "stage3_block7/conv2"; if None, the network's last
            uppermost block.
        upsample: bring the map to the image's height and width, bilinearly; or leave it as the layer has it.
        positive_only: cut off what is negative, as published.
    """

    layer: str | None = struct.field(pytree_node=False, default=None)
    upsample: bool = struct.field(pytree_node=False, default=True)
    positive_only: bool = struct.field(pytree_node=False, default=False)

    @property
    def name(self) -> str:
        """For people, tables and results."""
        return "grad_cam"

    @property
    def is_spatial(self) -> bool:
        """A map has no channels."""
        return True

    def attribute(self, model: Model, images: Images, targets: Labels, keys: Keys) -> Attributions:
        """See `Attribution.attribute`.

        Raises:
            UserError: the network has no such layer.
        """
        del keys
        layer = spatial_layer(model, images, self.layer)

        def total(added: Array) -> tuple[Array, Array]:
            features: list[Array] = []

            def add(name: str, number: int, output: Array) -> Array:
                if (name, number) != (layer.name, layer.calls):
                    return output
                features.append(output)
                return output + added

            logits = at_least_float32(changed(model, images, add))
            return jnp.take_along_axis(logits, targets[:, None], axis=-1).sum(), features[0]

        try:
            gradients, features = jax.grad(total, has_aux=True)(jnp.zeros(layer.shape, layer.dtype))
        except jax.errors.UnexpectedTracerError as error:
            raise UserError(
                f"expected a layer outside of nn.remat, nn.scan and other loops, got {layer.name!r}: "
                "name the module around it"
            ) from error
        weights = at_least_float32(gradients).mean((1, 2), keepdims=True)
        found = (weights * features).sum(-1)
        if self.positive_only:
            found = jax.nn.relu(found)
        if self.upsample:
            found = jax.image.resize(found, images.shape[:3], "bilinear")
        return found
