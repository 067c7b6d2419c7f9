"""One line each to make a classifier of a network in Flax Linen, Flax NNX, Equinox or Haiku, in evaluation mode.

What a framework needs beside images (variables, state, keys, flags) is bound here; what comes out is a function of
images alone, whose arrays are arguments of compiled code.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from jaxtyping import Array

from advx_jax.errors import UserError
from advx_jax.messages import listed, shown
from advx_jax.networks.own_classifier import ImageShape, OwnClassifier
from advx_jax.networks.pytrees import JoinedCall, as_pytree, is_array
from advx_jax.networks.random_classifier import RandomClassifier

_Own = TypeVar("_Own", bound=OwnClassifier)

_CHANNELS = (1, 3, 4)
# As networks call the arguments that put them into evaluation mode.
_EVALUATION_MODE = {
    "train": False,
    "training": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
    "inference": True,
}


def from_function(
    function: Callable[[Array], Array],
    class_names: Sequence[str] | None = None,
    image_shape: ImageShape | None = None,
    kind: str | None = None,
) -> OwnClassifier:
    """Any function from images to logits; a callable pytree's arrays become arguments of compiled code.

    Args:
        function: images (batch, height, width, channels) on the [0,1] scale to logits (batch, classes).
        class_names: in the order of the logits.
        image_shape: height, width and channels that it takes; found from the images if None.
        kind: what to call it in `repr`.

    Raises:
        UserError: it cannot be called, or names or shape are none.
    """
    if isinstance(function, RandomClassifier):
        return from_random_function(function.model, class_names, image_shape, kind)
    return _own(OwnClassifier, "a function from images to logits", function, class_names, image_shape, kind)


def from_random_function(
    function: Callable[[Array, Array], Array],
    class_names: Sequence[str] | None = None,
    image_shape: ImageShape | None = None,
    kind: str | None = None,
) -> RandomClassifier:
    """A random network: whatever it draws for an image, noise or dropout, comes from the image's own key.

    With a key for each image it is an ordinary model, `random.drawn(keys)`. `robust_accuracy` takes it as it is, with
    `AutoAttack(version="rand")` or `APGD`, and draws the keys itself; all else refuses it.

    Args:
        function: images (batch, height, width, channels) on the [0,1] scale and keys (batch) to logits (batch,
            classes); draws for each image apart, as `jax.vmap(jax.random.normal, (0, None))(keys, shape)` does.
        class_names: see `from_function`.
        image_shape: see `from_function`.
        kind: see `from_function`.

    Raises:
        UserError: it cannot be called, or names or shape are none.
    """
    what = "a function from images and keys to logits"
    if isinstance(function, OwnClassifier) and not isinstance(function, RandomClassifier):
        raise UserError(f"expected {what}, got {function!r}, which takes images alone")
    return _own(RandomClassifier, what, function, class_names, image_shape, kind)


def from_linen(
    module: Any,
    variables: Any,
    class_names: Sequence[str] | None = None,
    image_shape: ImageShape | None = None,
    **arguments: Any,
) -> OwnClassifier:
    """A Flax Linen module with its variables.

    Args:
        module: an `nn.Module` that gives logits of images on the [0,1] scale.
        variables: as `module.init` gives them: `{"params": …}`, with `batch_stats` and what else it needs.
        class_names: see `from_function`.
        image_shape: see `from_function`.
        arguments: of the module's call. Of those that put networks into evaluation mode (train, training, is_training,
            deterministic, use_running_average, inference), those that it has are set where they are not given.

    Raises:
        UserError: it is no module, or those are no variables.
    """
    if not isinstance(module, nn.Module):
        raise UserError(f"expected a Linen module, got {type(module).__name__}")
    if not isinstance(variables, Mapping) or "params" not in variables:
        got = listed([shown(key) for key in variables]) if isinstance(variables, Mapping) else type(variables).__name__
        raise UserError(f"expected variables as module.init gives them ({{'params': …}}), got {got}")
    settings = _evaluation_settings(module.__call__) | arguments
    apply = jax.tree_util.Partial(functools.partial(_apply_linen, module, settings), dict(variables))
    return from_function(apply, class_names, image_shape, f"Linen {type(module).__name__}")


def from_nnx(
    module: Any, class_names: Sequence[str] | None = None, image_shape: ImageShape | None = None
) -> OwnClassifier:
    """A Flax NNX module; a copy of it is put into evaluation mode, the module stays as it is.

    Args:
        module: an `nnx.Module` that gives logits of images on the [0,1] scale.
        class_names: see `from_function`.
        image_shape: see `from_function`.

    Raises:
        UserError: it is no NNX module.
    """
    if not isinstance(module, nnx.Module):
        raise UserError(f"expected an NNX module, got {type(module).__name__}")
    copy = nnx.merge(*nnx.split(module))
    copy.eval()
    definition, state = nnx.split(copy)
    apply = jax.tree_util.Partial(functools.partial(_apply_nnx, definition), state)
    return from_function(apply, class_names, image_shape, f"NNX {type(module).__name__}")


def from_equinox(
    module: Any,
    state: Any = None,
    class_names: Sequence[str] | None = None,
    image_shape: ImageShape | None = None,
    *,
    channels_first: bool = True,
) -> OwnClassifier:
    """An Equinox module of one image, over a batch; a copy in inference mode.

    Args:
        module: gives the logits of one image on the [0,1] scale.
        state: `eqx.nn.State` of a module that has one.
        class_names: see `from_function`.
        image_shape: height, width and channels, as everywhere here; see `from_function`.
        channels_first: whether the module takes (channels, height, width), as Equinox's own layers do.

    Raises:
        UserError: Equinox is not there, or it is no Equinox module.
    """
    try:
        import equinox as eqx
    except ImportError as error:
        raise UserError("expected Equinox to be installed for from_equinox, got none: pip install equinox") from error
    if not isinstance(module, eqx.Module):
        raise UserError(f"expected an Equinox module, got {type(module).__name__}")
    keyword = {"key": None} if "key" in inspect.signature(type(module).__call__).parameters else {}
    leaves, structure = jax.tree.flatten((eqx.nn.inference_mode(module), state))
    arrays = [leaf if is_array(leaf) else None for leaf in leaves]
    parts = JoinedCall(structure, tuple(None if is_array(leaf) else leaf for leaf in leaves))
    call = functools.partial(_apply_equinox, parts, keyword, channels_first)
    return from_function(
        jax.tree_util.Partial(call, arrays), class_names, image_shape, f"Equinox {type(module).__name__}"
    )


def from_haiku(
    transformed: Any,
    params: Any,
    state: Any = None,
    class_names: Sequence[str] | None = None,
    image_shape: ImageShape | None = None,
    **arguments: Any,
) -> OwnClassifier:
    """A network transformed by Haiku, with its parameters.

    Args:
        transformed: `hk.transform(f)`, or `hk.transform_with_state(f)` with `state`; with or without `rng`.
        params: as its `init` gives them.
        state: of a network with state.
        class_names: see `from_function`.
        image_shape: see `from_function`.
        arguments: of the network's call, such as `is_training=False`.

    Raises:
        UserError: it has no `apply`.
    """
    apply = getattr(transformed, "apply", None)
    if not callable(apply):
        raise UserError(f"expected hk.transform(f), got {type(transformed).__name__}")
    takes_key = "rng" in inspect.signature(apply).parameters
    call = functools.partial(_apply_haiku, apply, takes_key, state is not None, arguments)
    model = jax.tree_util.Partial(call, params, state)
    return from_function(model, class_names, image_shape, "Haiku network")


def normalized(model: Callable[[Array], Array], mean: Sequence[float], std: Sequence[float]) -> OwnClassifier:
    """A classifier of images on the [0,1] scale, from one that takes (images - mean)/std.

    Args:
        model: any classifier; made by one of the functions here, it keeps its class names.
        mean: of each channel.
        std: of each channel.

    Raises:
        UserError: they are not equally many, a standard deviation is not positive, or they are of pixels up to 255.
    """
    means, stds = (np.asarray(values, np.float32) for values in (mean, std))
    if means.ndim != 1 or means.shape != stds.shape or not (stds > 0).all():
        raise UserError(f"expected a mean and a positive std for each channel, got {mean} and {std}")
    if np.abs(means).max(initial=0) > 1:
        raise UserError(f"expected mean and std of images in [0,1], got {mean} and {std}: divide both by 255")
    inner = model if isinstance(model, OwnClassifier) else from_function(model)
    call = jax.tree_util.Partial(_apply_normalized, inner.model, jnp.asarray(means), jnp.asarray(stds))
    return dataclasses.replace(inner, model=as_pytree(call))


def checked_class_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of classes, in the order of the logits.

    Raises:
        UserError: they are one text, or two are the same.
    """
    found = () if isinstance(names, str) else tuple(map(str, names))
    if isinstance(names, str) or len(set(found)) < len(found):
        raise UserError(f"expected class_names as different texts, one for each class, got {shown(names)}")
    return found


def checked_shape(shape: Any) -> ImageShape:
    """Height, width and channels.

    Raises:
        UserError: they are none.
    """
    sizes = tuple(shape) if isinstance(shape, tuple | list) else ()
    if len(sizes) != 3 or not all(type(size) is int and size > 0 for size in sizes):
        raise UserError(f"expected image_shape as (height, width, channels), got {shape!r}")
    if sizes[0] in _CHANNELS and min(sizes[1:]) > max(_CHANNELS):
        raise UserError(f"expected image_shape as (height, width, channels), got {shape!r}, with channels first")
    return sizes[0], sizes[1], sizes[2]


def _own(
    kind_of_classifier: type[_Own],
    what: str,
    function: Any,
    class_names: Sequence[str] | None,
    image_shape: ImageShape | None,
    kind: str | None,
) -> _Own:
    if isinstance(function, OwnClassifier):
        function = function.model
    if not callable(function):
        raise UserError(f"expected {what}, got {type(function).__name__}")
    return kind_of_classifier(
        as_pytree(function),
        None if image_shape is None else checked_shape(image_shape),
        class_names=None if class_names is None else checked_class_names(class_names),
        kind=type(function).__name__ if kind is None else kind,
    )


def _evaluation_settings(call: Callable[..., Any]) -> dict[str, bool]:
    parameters = inspect.signature(call).parameters
    return {name: value for name, value in _EVALUATION_MODE.items() if name in parameters}


def _apply_linen(module: nn.Module, settings: Mapping[str, Any], variables: Any, images: Array) -> Any:
    return module.apply(variables, images, **settings)


def _apply_nnx(definition: Any, state: Any, images: Array) -> Any:
    return nnx.merge(definition, state)(images)


def _apply_equinox(
    parts: JoinedCall, keyword: Mapping[str, None], channels_first: bool, arrays: Sequence[Any], images: Array
) -> Any:
    module, state = parts.join(arrays)

    def logits_of(image: Array) -> Any:
        image = jnp.moveaxis(image, -1, 0) if channels_first else image
        return module(image, **keyword) if state is None else module(image, state, **keyword)[0]

    return jax.vmap(logits_of)(images)


def _apply_haiku(
    apply: Callable[..., Any],
    takes_key: bool,
    has_state: bool,
    arguments: Mapping[str, Any],
    params: Any,
    state: Any,
    images: Array,
) -> Any:
    before = (params, state) if has_state else (params,)
    found = apply(*before, *((None,) if takes_key else ()), images, **arguments)
    return found[0] if has_state else found


def _apply_normalized(model: Callable[..., Array], mean: Array, std: Array, images: Array, *keys: Array) -> Array:
    if len(mean) not in (1, images.shape[-1]):
        raise UserError(f"expected images of {len(mean)} channels, as mean and std have, got {images.shape[-1]}")
    return model((images - mean) / std, *keys)
