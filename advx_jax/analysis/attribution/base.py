"""The contract of all attributions: what they are asked, and what they answer.

An attribution says of each value of an image, or of each of its positions, how much it speaks for a class: positive
for it, negative against it. The score of a class is its logit. A method is a frozen dataclass and a JAX pytree:
numbers such as sigma are leaves, so that other values need no compilation; names and counts are static.
"""

import dataclasses
import hashlib
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Key

from advx_jax.attacks.arrays import Images, Keys, Labels, Values
from advx_jax.attacks.ascent import at_least_float32
from advx_jax.attacks.base import Attack, Model, example_keys, plain_number
from advx_jax.attacks.checks import ImagesLike, LabelsLike, check_settings, checked, with_settings
from advx_jax.errors import UserError
from advx_jax.importing import code_settings
from advx_jax.networks.pytrees import as_pytree

_Same = TypeVar("_Same", bound="Attribution")

Attributions = Float[Array, "batch *positions"]
"""Signed; in the shape of the images, or (batch, height, width) of a spatial method."""

# Passes through the model that a gradient costs: as attacks count them.
GRADIENT_PASSES = 3


@struct.dataclass(kw_only=True)
class Attribution:
    """Base of every method. One of your own needs `attribute`, and `passes` where it costs more than a gradient."""

    def __post_init__(self) -> None:
        """Refuse settings that are none, and bring those in other spellings into one form.

        Raises:
            UserError: in one line.
        """
        check_settings(self, in_use=False)

    @property
    def name(self) -> str:
        """For people, tables and results."""
        return type(self).__name__.lower()

    @property
    def is_random(self) -> bool:
        """Whether other keys give other results."""
        return False

    @property
    def is_spatial(self) -> bool:
        """Whether it has one value for each position, (batch, height, width), in place of one for each channel too."""
        return False

    def passes(self, image_shape: tuple[int, ...]) -> int:
        """Cost for an image and a target in passes through the model, where a gradient counts as three.

        Args:
            image_shape: height, width and channels.
        """
        del image_shape
        return GRADIENT_PASSES

    def with_settings(self: _Same, **settings: Any) -> _Same:
        """The same method with other settings: steps, sigma, whatever fields it has.

        Raises:
            UserError: it has no such setting, or a value is none that it can work with.
        """
        return with_settings(self, "attribution", settings)

    def settings(self) -> dict[str, Any]:
        """Everything that a result depends on, apart from model, image, target and key, as JSON can hold it."""
        fields = {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {"method": self.name} | fields | code_settings(self)

    def check(self, image_shape: tuple[int, ...]) -> None:
        """Refuse settings that it cannot work with; a class with conditions of its own adds them.

        Args:
            image_shape: of an image, mostly height, width and channels.

        Raises:
            UserError: in one line.
        """
        if self.is_spatial and len(image_shape) != 3:
            raise UserError(
                f"expected images of shape (batch, height, width, channels) for {self.name}, "
                f"got images of shape {image_shape} each"
            )
        check_settings(self)

    def attribute(self, model: Model, images: Images, targets: Labels, keys: Keys) -> Attributions:
        """Attribute the targets' logits; a pure function, under `jit`, `vmap` and `scan` as well.

        Args:
            model: images to logits.
            images: x in [0,1].
            targets: a class for each image.
            keys: of each example's random draws.
        """
        raise NotImplementedError

    def __call__(
        self, model: Model, images: ImagesLike, targets: LabelsLike, key: Key[Array, "..."] | None = None
    ) -> Attributions:
        """Attribute images that are computed at once; `attribute_images` takes any number.

        Args:
            model: images to logits, for instance a `Classifier`; in evaluation mode.
            images: x in [0,1].
            targets: a class for each image.
            key: of all random draws, folded with each example's place in the batch; or a key for each example, so
                that its draws do not depend on the batch (see `attacks.example_keys`). `jax.random.key(0)` if None.

        Returns:
            Signed; in the shape of the images, or (batch, height, width) of a spatial method.

        Raises:
            UserError: images, targets, model or settings are not what the method can work with.
        """
        x, y, _ = checked(model, images, targets, "target")
        self.check(tuple(x.shape[1:]))
        return _run(self, as_pytree(model), x, y, example_keys(key, jnp.arange(len(x))))


def as_attribution(method: Any) -> Attribution:
    """Give a method back.

    Raises:
        UserError: it is something else, its name for instance.
    """
    if not isinstance(method, Attribution):
        raise UserError(
            f"expected an attribution such as advx_jax.attribution.IntegratedGradients(steps=64), got {method!r}"
        )
    return method


def target_logits(model: Model, images: Images, targets: Labels) -> Values:
    """The score of each image: its target's logit, in float32 at least."""
    return jnp.take_along_axis(at_least_float32(model(images)), targets[:, None], axis=-1)[:, 0]


def target_gradients(model: Model, images: Images, targets: Labels) -> Images:
    """Gradient of each image's score with respect to that image."""

    def total(x: Array) -> Array:
        return target_logits(model, x, targets).sum()

    return jax.grad(total)(images)


def _plain(value: Any) -> Any:
    """A setting as JSON can hold it; of an array of images its shape and sha256."""
    if isinstance(value, Attribution | Attack):
        return value.settings()
    if isinstance(value, np.ndarray | jax.Array) and value.ndim:
        array = np.ascontiguousarray(value)
        return {"shape": list(array.shape), "sha256": hashlib.sha256(array.tobytes()).hexdigest()}
    return plain_number(value)


@jax.jit
def _run(method: Attribution, model: Model, images: Array, targets: Array, keys: Array) -> Array:
    return method.attribute(model, images, targets, keys)
