"""How much memory the work on one image takes, from its program alone: nothing is compiled or computed."""

import functools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from advx_jax.attacks.base import Attack, Model, example_keys
from advx_jax.networks.programs import TRACED_ROWS, programs_in
from advx_jax.networks.pytrees import as_pytree
from advx_jax.networks.random_classifier import at_some_draw

# Their bodies run again and again beside what they pile up.
_LOOPS = ("scan", "while")


def classify(model: Model, images: Any) -> Any:
    """The work of one pass through a model."""
    return model(images)


def row_bytes(model: Model, images: Any, work: Attack | Callable[[Model, Any], Any] = classify) -> int:
    """Memory that the work on one image takes at its peak, beside the model's own: an upper bound.

    It is what a program has alive at once if each of its operations is computed by itself. Compiled code fuses many of
    them: for gradients of ResNets it takes between half of that and all of it.

    Args:
        model: images to logits.
        images: only their shape and type count; pixels count as what they become, float32.
        work: an attack, for one of its steps; of an ensemble, for a step of its most expensive part. Or a function of
            model and images.

    Returns:
        In bytes.
    """
    shape = tuple(images.shape[1:])
    dtype = np.dtype(images.dtype) if jnp.issubdtype(images.dtype, jnp.floating) else np.dtype(np.float32)
    model = as_pytree(model)
    if not isinstance(work, Attack):
        return _bytes_of(work, *_types((model, None)), shape, dtype)
    parts = work.parts()
    if len(parts) > 1:
        parts = work.parts(_n_classes(*_types(model), shape, dtype))
    # Those that differ in numbers only cost the same.
    kinds = {_types((model, part.attack)) for part in parts}
    return max((_bytes_of(None, *kind, shape, dtype) for kind in kinds), default=0)


class _Type(NamedTuple):
    """Of an array; quicker to make than JAX's, and there are hundreds in a network."""

    shape: tuple[int, ...]
    dtype: Any


def _types(tree: Any) -> tuple[Any, tuple[_Type, ...]]:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(map(_type, leaves))


def _type(leaf: Any) -> _Type:
    if isinstance(leaf, np.ndarray):
        return _Type(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype))
    return _Type(np.shape(leaf), jnp.result_type(leaf))


def _as_arrays(types: tuple[_Type, ...]) -> tuple[jax.ShapeDtypeStruct, ...]:
    return tuple(jax.ShapeDtypeStruct(*one) for one in types)


@functools.lru_cache(maxsize=32)
def _n_classes(structure: Any, leaves: tuple[_Type, ...], shape: tuple[int, ...], dtype: np.dtype) -> int:
    images = jax.ShapeDtypeStruct((1, *shape), dtype)
    logits = jax.eval_shape(
        lambda values, x: at_some_draw(jax.tree.unflatten(structure, values))(x), _as_arrays(leaves), images
    )
    return int(logits.shape[-1])


@functools.lru_cache(maxsize=32)
def _bytes_of(
    function: Any,
    structure: Any,
    leaves: tuple[_Type, ...],
    shape: tuple[int, ...],
    dtype: np.dtype,
) -> int:
    images, numbers = jax.ShapeDtypeStruct((TRACED_ROWS, *shape), dtype), _as_arrays(leaves)

    def begun(values: tuple[Any, ...], images: Any, keys: Any) -> Any:
        model, attack = jax.tree.unflatten(structure, values)
        return attack.init(model, images, _labels(images), keys)

    def worked(values: tuple[Any, ...], images: Any, state: Any) -> Any:
        model, attack = jax.tree.unflatten(structure, values)
        return function(model, images) if attack is None else attack.step(model, images, _labels(images), state)

    state: Any = ()
    if function is None:
        keys = jax.eval_shape(lambda: example_keys(None, jnp.arange(TRACED_ROWS)))
        state = jax.eval_shape(begun, numbers, images, keys)
    inside = _peak(jax.make_jaxpr(worked)(numbers, images, state).jaxpr)
    return math.ceil((inside + sum(map(_size, jax.tree.leaves((images, state))))) / TRACED_ROWS)


def _labels(images: Any) -> Any:
    return jnp.zeros(len(images), jnp.int32)


def _peak(program: core.Jaxpr) -> int:
    """The most bytes alive at once of what a program makes, its results included."""
    last = {value: place for place, step in enumerate(program.eqns) for value in step.invars if _is_variable(value)}
    last |= {value: len(program.eqns) for value in program.outvars if _is_variable(value)}
    ending: Counter[int] = Counter()
    alive = most = 0
    for place, step in enumerate(program.eqns):
        made = 0
        for value in step.outvars:
            made += _size(value.aval)
            ending[last.get(value, place)] += _size(value.aval)
        inside = max((_peak(program.jaxpr) for program in programs_in(step)), default=0)
        most = max(most, alive + (made + inside if step.primitive.name in _LOOPS else max(made, inside)))
        alive += made - ending[place]
    return most


def _is_variable(value: Any) -> bool:
    return not isinstance(value, core.Literal)


def _size(value: Any) -> int:
    """Bytes of an array; keys of random draws, which are no numbers, count as what they are made of."""
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.eval_shape(jax.random.key_data, value)
    return math.prod(value.shape) * value.dtype.itemsize
