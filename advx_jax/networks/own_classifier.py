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

# Where in memory a function lies is in the text of programs that call it; it says nothing about what they compute.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
# A batch of one may be another program.
_TRACED_ROWS = 2

ImageShape = tuple[int, int, int]
"""Height, width and channels."""


def as_pytree(model: Callable[..., Any]) -> Callable[..., Any]:
    """Make any function from images to logits an argument that `jit` accepts.

    A `Classifier`, a `jax.tree_util.Partial` or another callable pytree of numbers is one already: its arrays become
    arguments of the compiled code. What has functions or flags among its leaves, as Equinox's modules do, keeps those
    as parts of the code. A plain function is kept as it is, with its arrays as constants.
    """
    leaves, structure = jax.tree.flatten(model)
    if jax.tree_util.treedef_is_leaf(structure):
        return jax.tree_util.Partial(model)
    if all(is_array(leaf) or (isinstance(leaf, int | float | complex) and type(leaf) is not bool) for leaf in leaves):
        return model
    arrays = [leaf if is_array(leaf) else None for leaf in leaves]
    others = tuple(None if is_array(leaf) else leaf for leaf in leaves)
    return jax.tree_util.Partial(JoinedCall(structure, others), arrays)


def is_array(leaf: Any) -> bool:
    """Whether it can be an argument of compiled code: an array, or what stands for one inside such code."""
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)


@dataclasses.dataclass(frozen=True)
class JoinedCall:
    """Calls a pytree whose arrays come apart from the rest of its leaves.

    Attributes:
        structure: of the pytree.
        others: its leaves, None in place of arrays.
    """

    structure: Any
    others: tuple[Any, ...]

    def __hash__(self) -> int:
        # Leaves need not be hashable.
        return hash(self.structure)

    def join(self, arrays: Sequence[Any]) -> Any:
        """The pytree with these arrays; None in place of other leaves."""
        leaves = [other if array is None else array for array, other in zip(arrays, self.others, strict=True)]
        return jax.tree.unflatten(self.structure, leaves)

    def __call__(self, arrays: Sequence[Any], images: Array) -> Any:
        """Logits."""
        return self.join(arrays)(images)


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

    model: Callable[[Array], Array]
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
        return f"OwnClassifier({', '.join(parts)})"

    @property
    def n_classes(self) -> int:
        """K.

        Raises:
            UserError: it is not known yet.
        """
        if not self.classes:
            raise UserError(f"expected {self!r} to know its images, got none yet")
        return self.classes

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
        forward = jax.make_jaxpr(lambda model, x: model(x))(self.model, images)
        if calls := sorted({name for name in _primitives(forward.jaxpr) if "callback" in name}):
            raise UserError(
                f"expected a model that is computed by JAX, got one that calls back into Python ({', '.join(calls)}): "
                "results of such models cannot be told apart"
            )
        programs = [forward, *_backward(self.model, images)]
        digest = hashlib.sha256("".join(_ADDRESS.sub("", str(program)) for program in programs).encode())
        constants = (constant for program in programs for constant in _constants(program))
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
        for inner in _inner(step):
            yield from _primitives(inner.jaxpr if isinstance(inner, core.ClosedJaxpr) else inner)


def _inner(step: core.JaxprEqn) -> Iterator[core.Jaxpr | core.ClosedJaxpr]:
    for parameter in step.params.values():
        for inner in parameter if isinstance(parameter, tuple | list) else [parameter]:
            if isinstance(inner, core.ClosedJaxpr | core.Jaxpr):
                yield inner


def _constants(program: core.ClosedJaxpr) -> Iterator[Any]:
    """Arrays that are no arguments of a program but stand in it, or in programs within; its text lacks their values."""
    yield from program.consts
    for step in program.jaxpr.eqns:
        yield from (value.val for value in step.invars if isinstance(value, core.Literal) and np.ndim(value.val))
        for inner in _inner(step):
            yield from _constants(inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ()))
