"""Classifiers of one's own: any function from images to logits, whatever framework it was written in."""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.extend import core
from jaxtyping import Array, Float

from advx_jax.errors import UserError
from advx_jax.messages import size_in_words
from advx_jax.networks.programs import programs_in

# Where in memory a function lies is in the text of programs that call it; it says nothing about what they compute.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
# A batch of one may be another program.
_TRACED_ROWS = 2

ImageShape = tuple[int, int, int]
"""Height, width and channels."""


@struct.dataclass(eq=False)
class OwnClassifier:
    """A function from NHWC images on the [0,1] scale to logits, with what must be known about it.

    It is a JAX pytree whose leaves are the arrays of `model`.

    Attributes:
        model: the function; a pytree, such as a `jax.tree_util.Partial`.
        image_shape: height, width and channels of the images that it takes; None where nobody said so yet.
        classes: K; 0 where it is not known yet.
        class_names: what its classes are called, in the order of its logits; None where it does not say.
        kind: what it was made of, for people: "Linen CNN".
    """

    model: Callable[..., Array]
    image_shape: ImageShape | None = struct.field(pytree_node=False, default=None)
    classes: int = struct.field(pytree_node=False, default=0)
    class_names: tuple[str, ...] | None = struct.field(pytree_node=False, default=None)
    kind: str = struct.field(pytree_node=False, default="function")

    def __call__(self, images: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        """Logits of images on the [0,1] scale."""
        return self.model(images)

    def __repr__(self) -> str:
        parts = [self.kind]
        if self.classes:
            parts.append(f"{self.classes} classes")
        if self.image_shape:
            parts.append(f"images of {size_in_words(self.image_shape)}")
        return f"{type(self).__name__}({', '.join(parts)})"

    @property
    def n_classes(self) -> int:
        """K.

        Raises:
            UserError: it is not known yet.
        """
        if not self.classes:
            raise UserError(f"expected {self!r} to know its images, got none yet")
        return self.classes

    def as_function(self) -> Callable[[Array], Array]:
        """What is called with images; a pytree."""
        return self.model

    def of_images(self, shape: ImageShape, classes: int) -> "OwnClassifier":
        """The same classifier, now known to take such images and to have so many classes.

        Raises:
            UserError: it names more or fewer classes.
        """
        if self.class_names is not None and len(self.class_names) != classes:
            raise UserError(f"expected class_names for the model's {classes} classes, got {len(self.class_names)}")
        return dataclasses.replace(self, image_shape=shape, classes=classes)

    def fingerprint(self) -> str:
        """Sha256 of all arrays and of the traced program, its gradient with it: equal for equal classifiers, anywhere.

        The gradient, because attacks follow it, and somebody's own rules for it stand in no forward program. A release
        of JAX may write programs in another way, and then it is another one.

        Raises:
            UserError: it is not known yet what images it takes; or it calls back into Python, of which nobody sees what
                is computed there.
        """
        if self.image_shape is None:
            raise UserError(f"expected {self!r} to know its images, got none yet")
        images = jax.ShapeDtypeStruct((_TRACED_ROWS, *self.image_shape), jnp.float32)
        function = self.as_function()
        forward = jax.make_jaxpr(lambda model, x: model(x))(function, images)
        if calls := sorted({name for name in _primitives(forward.jaxpr) if "callback" in name}):
            raise UserError(
                f"expected a model that is computed by JAX, got one that calls back into Python ({', '.join(calls)}): "
                "results of such models cannot be told apart"
            )
        programs = [forward, *_backward(function, images)]
        digest = hashlib.sha256("".join(_ADDRESS.sub("", str(program)) for program in programs).encode())
        constants = (constant for program in programs for constant in _constants(program.jaxpr, program.consts))
        for array in (*jax.tree.leaves(self.model), *constants):
            value = np.asarray(jax.random.key_data(array) if _is_key(array) else array)
            digest.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()


def _is_key(array: Any) -> bool:
    return isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


def _backward(model: Callable[[Array], Array], images: jax.ShapeDtypeStruct) -> list[core.ClosedJaxpr]:
    """The program of a weighted sum of logits' gradient; none where there is no gradient, which some attacks spare."""

    def gradient(model: Callable[[Array], Array], x: Array) -> Array:
        logits, pull = jax.vjp(model, x)
        # Not of ones: those may vanish in a program where others do not.
        (found,) = pull(jnp.cos(jnp.arange(logits.size, dtype=logits.dtype)).reshape(logits.shape))
        return found

    try:
        return [jax.make_jaxpr(gradient)(model, images)]
    except Exception:
        return []


def _primitives(program: core.Jaxpr) -> Iterator[str]:
    """Names of all operations of a program, those of programs within as well."""
    for step in program.eqns:
        yield step.primitive.name
        for inner in programs_in(step):
            yield from _primitives(inner.jaxpr)


def _constants(program: core.Jaxpr, constants: Sequence[Any]) -> Iterator[Any]:
    """Arrays that are no arguments of a program but stand in it, or in programs within; its text lacks their values."""
    yield from constants
    for step in program.eqns:
        yield from (value.val for value in step.invars if isinstance(value, core.Literal) and np.ndim(value.val))
        for inner in programs_in(step):
            yield from _constants(*inner)
