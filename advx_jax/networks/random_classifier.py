"""Random networks: functions of images and of a key for each image, from which comes all that is drawn for it.

Who has the keys decides what is drawn: with the same key an image has the same logits, in any batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from advx_jax.errors import UserError
from advx_jax.networks.own_classifier import OwnClassifier


@struct.dataclass(eq=False, repr=False)
class RandomClassifier(OwnClassifier):
    """A function from NHWC images on the [0,1] scale and a key for each to logits, as `from_random_function` makes it.

    Only what knows that answers are draws works with it: `robust_accuracy` with `AutoAttack(version="rand")` or with
    `APGD`. All else calls it as it calls any model, with images alone, and that it refuses.
    """

    def __call__(self, images: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        """Refuse, for without keys there is no answer.

        Raises:
            UserError: in one line, with what works instead.
        """
        del images
        raise UserError(
            "expected a network that gives equal logits for equal images, got a random one: it can only be measured by "
            "a robust accuracy under AutoAttack(version='rand'), --version=rand, or APGD"
        )

    def drawn(self, keys: Key[Array, " batch"]) -> Callable[[Array], Array]:
        """An ordinary function of as many images as there are keys, with what these draw; a pytree.

        Args:
            keys: one for each image.
        """
        return jax.tree_util.Partial(_with_keys, self.model, keys)

    def as_function(self) -> Callable[[Array], Array]:
        """With some draw, for any number of images, whose keys are counted from the last of them.

        For what all draws have in common: shapes, memory, and whether an image's answer depends on its own key alone.
        """
        return jax.tree_util.Partial(_with_keys_by_place, self.model)


def at_draw(model: Callable[[Array], Array], keys: Key[Array, " batch"]) -> Callable[[Array], Array]:
    """A random network with what keys draw; any other model as it is."""
    return model.drawn(keys) if isinstance(model, RandomClassifier) else model


def at_some_draw(model: Any) -> Any:
    """A random network with some draw, see `as_function`; anything else as it is."""
    return model.as_function() if isinstance(model, RandomClassifier) else model


def _with_keys(function: Callable[[Array, Array], Array], keys: Array, images: Array) -> Array:
    if len(keys) != len(images):
        raise UserError(f"expected a key for each of {len(images)} images, got {len(keys)}")
    return function(images, keys)


def _with_keys_by_place(function: Callable[[Array, Array], Array], images: Array) -> Array:
    places = jnp.arange(len(images))[::-1]
    return function(images, jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), places))
