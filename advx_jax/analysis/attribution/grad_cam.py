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

        def total(places: tuple[Array, Array]) -> Array:
            def tap(name: str, number: int, output: Array) -> Array:
                return _tapped(output, *places) if (name, number) == (layer.name, layer.calls) else output

            logits = at_least_float32(changed(model, images, tap))
            return jnp.take_along_axis(logits, targets[:, None], axis=-1).sum()

        empty = jnp.zeros(layer.shape, layer.dtype)
        features, gradients = jax.grad(total)((empty, empty))
        weights = at_least_float32(gradients).mean((1, 2), keepdims=True)
        found = (weights * features).sum(-1)
        if self.positive_only:
            found = jax.nn.relu(found)
        if self.upsample:
            found = jax.image.resize(found, images.shape[:3], "bilinear")
        return found


@jax.custom_vjp
def _tapped(output: Array, features: Array, gradients: Array) -> Array:
    """The output of a layer, such that differentiating by the other two gives that output and its gradient.

    They come out in this way from within `nn.remat` and loops, which nothing else may leave.
    """
    del features, gradients
    return output


def _tapped_forward(output: Array, features: Array, gradients: Array) -> tuple[Array, Array]:
    del features, gradients
    return output, output


def _tapped_backward(output: Array, gradient: Array) -> tuple[Array, Array, Array]:
    return gradient, output, gradient


_tapped.defvjp(_tapped_forward, _tapped_backward)
