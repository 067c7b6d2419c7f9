"""How many items make a chunk: as many as are computed fastest, as fit into memory, and as leave little padding."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from advx_jax.analysis.memory import Device, lane_budget
from advx_jax.analysis.workers import lanes, least_rows
from advx_jax.errors import UserError

# Measured on CPUs (benchmarks/input_gradient.py): the input gradient costs least per image at 8 to
# 32 images a thread, and two threads with a chunk each beat one thread with both.
_CPU_IMAGES = 16
# An image's explanations towards up to so many classes are made at once; of more, a killed call would lose too much.
_CPU_TARGETS = 20
# An accelerator has enough to do with so much; more gains little, and makes chunks longer, of which a killed call loses
# the one in work.
_ENOUGH_BYTES = 4 * 2**30
# Sizes beyond 16 have as many significant bits: few sizes, because work is compiled for each, and each at most a
# sixteenth larger than need be.
_FINE = 16


def chunk_rows(total: int, row_bytes: int, per_item: int = 1) -> int:
    """How many items make a chunk, so that all lanes end together and it fits into memory.

    Whatever the total, at most a tenth of the rows computed are padding; or less than one row a chunk, in chunks of
    fewer than ten.

    Args:
        total: items to be spread.
        row_bytes: memory that the work on one image takes (`row_cost.row_bytes`).
        per_item: images that the model sees at once for each item, such as one for each class.

    Raises:
        UserError: not even the smallest chunk fits; or see `lane_budget`.
    """
    devices = lanes()
    most = _most_rows(devices, row_bytes, per_item)
    least = min(least_rows(), most)
    chunks = -(-total // (most * len(devices))) * len(devices)
    return max(least, _rounded_up(-(-total // chunks))) if total else least


def evenly(per_item: int, row_bytes: int) -> int:
    """Of an item's images, how many the model sees at once: all, unless there are more than fit or than are worth it.

    Args:
        per_item: images that each item has, such as one for each class.
        row_bytes: see `chunk_rows`.

    Returns:
        Such that as many times as are needed have as many of them, but for the last.

    Raises:
        UserError: see `lane_budget`.
    """
    devices = lanes()
    worth = _CPU_TARGETS if devices[0].platform == "cpu" else _ENOUGH_BYTES // max(1, row_bytes)
    # A chunk has more than one item where that is its least.
    most = max(1, min(worth, lane_budget(devices) // (max(1, row_bytes) * least_rows())))
    return -(-per_item // -(-per_item // most))


class Group(NamedTuple):
    """Of an item's images, such as one for each target, those that the model sees at once.

    Attributes:
        places: among all of them; the last repeated where there are fewer than in other groups.
        n: how many are no repetition.
    """

    places: Int[np.ndarray, " group"]
    n: int


def groups(total: int, size: int) -> Iterator[Group]:
    """All of an item's images in groups of one size, for which work is compiled once."""
    for begin in range(0, total, size):
        places = np.arange(begin, begin + size)
        yield Group(np.minimum(places, total - 1), min(size, total - begin))


def _most_rows(devices: Sequence[Device], row_bytes: int, per_item: int) -> int:
    """The largest chunk that is worth it and fits; of those sizes that `_rounded_up` gives."""
    budget, item_bytes = lane_budget(devices), max(1, row_bytes * per_item)
    on_cpu = devices[0].platform == "cpu"
    wanted = max(1, _CPU_IMAGES // per_item if on_cpu else _ENOUGH_BYTES // item_bytes)
    # Never one here and several on another number of lanes.
    least = min(least_rows(), wanted)
    fitting = budget // item_bytes
    if fitting < least:
        raise UserError(_too_little(least * per_item, least * item_bytes, budget, len(devices) if on_cpu else 1))
    rows = min(wanted, fitting)
    return rows if rows == _rounded_up(rows) else _rounded_up(rows) - _step(rows)


def _step(rows: int) -> int:
    """Distance between sizes near this one."""
    return max(1, 2 ** (rows.bit_length() - _FINE.bit_length()))


def _rounded_up(rows: int) -> int:
    step = _step(rows)
    return -(-rows // step) * step


def _too_little(n_images: int, needed: int, budget: int, n_lanes: int) -> str:
    several = f" in each of {n_lanes} lanes" if n_lanes > 1 else ""
    fewer = ", or fewer lanes by ADVX_LANES" if n_lanes > 1 else ""
    return (
        f"expected memory for {n_images} image{'s' * (n_images > 1)} at once, up to {_in_words(needed)}, "
        f"got {_in_words(budget)}{several}: give more by --memory or ADVX_MEMORY{fewer}"
    )


def _in_words(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.3g} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.3g} MiB"
