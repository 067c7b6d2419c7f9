"""Work on many images: cut into chunks of one size, spread over all lanes, trimmed again."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from advx_jax.analysis.workers import Worker, pad, spread
from advx_jax.attacks.base import Model

Work = Callable[..., Any]
"""`(worker, count, *chunk)` to a pytree of arrays whose first axis is that of the chunk; `count` of its rows are real,
the others padding."""


def map_batches(
    model: Model, arrays: Sequence[np.ndarray], work: Work, rows: int
) -> Iterator[tuple[Int[np.ndarray, " part"], Any]]:
    """Do work on all rows of arrays, on all lanes at once.

    Args:
        model: images to logits, copied to every device used.
        arrays: of equally many rows: images, labels and what else belongs to each image.
        work: on a chunk.
        rows: of a chunk; the last one is padded.

    Yields:
        Places of rows and what `work` gave for them, as NumPy arrays, in the order in which chunks are finished.
    """
    total = len(arrays[0])

    def do(worker: Worker, begin: int) -> Any:
        part = slice(begin, begin + rows)
        count = min(rows, total - begin)
        found = work(worker, count, *(worker.put(pad(array[part], rows)) for array in arrays))
        return jax.tree.map(lambda field: np.asarray(field)[:count], found)

    for begin, found in spread(model, range(0, total, rows), do):
        yield np.arange(begin, min(begin + rows, total)), found


def gather(total: int, parts: Iterator[tuple[Int[np.ndarray, " part"], Any]]) -> Any:
    """Put the parts that `map_batches` gives back together.

    Args:
        total: how many rows there are, at least one.
        parts: of a pytree of arrays.
    """
    whole: Any = None
    for places, part in parts:
        if whole is None:
            whole = jax.tree.map(lambda field: np.empty((total, *field.shape[1:]), field.dtype), part)
        jax.tree.map(lambda field, values, places=places: field.__setitem__(places, values), whole, part)
    return whole
