"""Outputs of the modules inside a classifier in Flax Linen, whoever wrote it and however it is wrapped."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from advx_jax.attacks.arrays import Images, Logits
from advx_jax.attacks.base import Model
from advx_jax.errors import UserError
from advx_jax.messages import nearest

# Of a list in a message.
_MOST_NAMES = 40


class Layer(NamedTuple):
    """A module, by the last of its calls in a pass.

    Attributes:
        name: its path in the network: "stage3_block7" or "stage3_block7/conv2".
        calls: how often it is called in a pass.
        shape: of what it gives, with the batch in front; None if that is no single array.
        dtype: likewise.
    """

    name: str
    calls: int
    shape: tuple[int, ...] | None
    dtype: Any

    @property
    def is_spatial(self) -> bool:
        """Whether it gives feature maps: (batch, height, width, channels) with more than one position."""
        return self.shape is not None and len(self.shape) == 4 and self.shape[1] * self.shape[2] > 1

    @property
    def depth(self) -> int:
        """In how many modules below the network itself it lies."""
        return self.name.count("/")


Change = Callable[[str, int, Any], Any]
"""From a layer's name, the number of the call (from 1), and its output, to what goes on in its place."""


def changed(model: Model, images: Images, change: Change) -> Logits:
    """Logits of a pass in which the outputs of modules are changed."""
    calls: Counter[str] = Counter()
    inside: set[str] = set()

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        name = "/".join(context.module.path)
        # Flax calls a module that it has transformed (nn.remat, nn.scan) once more, under the same name, from within.
        if context.method_name != "__call__" or not name or name in inside:
            return call(*args, **kwargs)
        inside.add(name)
        try:
            output = call(*args, **kwargs)
        finally:
            inside.discard(name)
        calls[name] += 1
        return change(name, calls[name], output)

    # What was traced before, inside a compiled function of the model's own, would not call its modules again.
    with nn.intercept_methods(intercept), jax.disable_jit():
        return model(images)


def layers_of(model: Model, images: Any) -> dict[str, Layer]:
    """All modules that a network calls, in the order in which their last calls end; nothing is computed.

    Args:
        model: images to logits.
        images: only their shape and type count.
    """
    found: dict[str, Layer] = {}

    def note(name: str, number: int, output: Any) -> Any:
        is_array = isinstance(output, jax.Array)
        found.pop(name, None)
        found[name] = Layer(name, number, output.shape if is_array else None, output.dtype if is_array else None)
        return output

    # A function that is new to JAX, which would give the shapes of a known one without calling it.
    jax.eval_shape(lambda x: changed(model, x, note), jax.ShapeDtypeStruct(images.shape, images.dtype))
    return found


def spatial_layer(model: Model, images: Any, name: str | None) -> Layer:
    """A layer that gives feature maps.

    Args:
        model: images to logits.
        images: only their shape and type count.
        name: of the layer; if None, of the network's uppermost modules with feature maps the last that is made of
            others, a residual block for instance, or else the last.

    Raises:
        UserError: there is none, or it gives no feature maps.
    """
    layers = layers_of(model, images)
    spatial = [layer for layer in layers.values() if layer.is_spatial]
    if not spatial:
        raise UserError(
            "expected a network of Flax Linen modules that give feature maps (batch, height, width, channels), got none"
        )
    if name is None:
        highest = min(layer.depth for layer in spatial)
        upper = [layer for layer in spatial if layer.depth == highest]
        blocks = [layer for layer in upper if any(other.startswith(f"{layer.name}/") for other in layers)]
        return (blocks or upper)[-1]
    if name not in layers:
        hint = nearest(name, layers)
        raise UserError(f"expected a layer of the network ({_names(spatial)}), got {name!r}{hint}")
    if not layers[name].is_spatial:
        raise UserError(
            f"expected a layer with feature maps ({_names(spatial)}), got {name!r}, which gives "
            f"{'no array' if layers[name].shape is None else f'shape {layers[name].shape}'}"
        )
    return layers[name]


def _names(layers: list[Layer]) -> str:
    """The uppermost ones by name; what is inside of them goes by "BLOCK/…"."""
    highest = min(layer.depth for layer in layers)
    upper = [layer.name for layer in layers if layer.depth == highest]
    others = ", …" if len(upper) > _MOST_NAMES else ""
    inner = ", and those inside" if len(layers) > len(upper) else ""
    return ", ".join(upper[:_MOST_NAMES]) + others + inner
