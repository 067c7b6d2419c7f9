"""Images of a data set as attacks take them, some at a time, and which of them there is anything to do for."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int32

from advx_jax.analysis.robustness_area import needs_attack
from advx_jax.attacks.base import Model
from advx_jax.attacks.criteria import Criterion
from advx_jax.data.image_set import ImageSet, unit_images

# Images on the [0,1] scale at a time: four times the size of their pixels, so never all of them.
_BLOCK = 1024


class AtStart(NamedTuple):
    """What an unperturbed image is.

    Attributes:
        place: index in the data set.
        needs_attack: it is not over the boundary.
        finite: its logits are numbers.
    """

    place: int
    needs_attack: bool
    finite: bool


def load_block(
    data: ImageSet, indices: Sequence[int]
) -> tuple[Float[np.ndarray, "n height width channels"], Int32[np.ndarray, " n"]]:
    """Images of these indices on the [0,1] scale, and their labels."""
    block = list(indices)
    return unit_images(data.images[block]), data.labels[block].astype(np.int32)


def at_start(model: Model, data: ImageSet, indices: Sequence[int], criterion: Criterion) -> Iterator[AtStart]:
    """Look at unperturbed images, in their order."""
    for begin in range(0, len(indices), _BLOCK):
        block = indices[begin : begin + _BLOCK]
        found = needs_attack(model, *load_block(data, block), criterion)
        for place, needed, finite in zip(block, *found, strict=True):
            yield AtStart(place, bool(needed), bool(finite))
