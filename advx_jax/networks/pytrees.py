"""Any callable as a pytree: its arrays are arguments of compiled code, the rest of it is part of the code."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array


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
    # `jax.Array` last: what is none takes longest to tell from it.
    return isinstance(leaf, np.ndarray | np.generic | jax.ShapeDtypeStruct | jax.Array)


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

    def __call__(self, arrays: Sequence[Any], *inputs: Array) -> Any:
        """Logits."""
        return self.join(arrays)(*inputs)
