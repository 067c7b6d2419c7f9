"""Which images enter the accuracy-robustness area (docs/method.md, Subset)."""

import functools

import numpy as np
from jaxtyping import Int

from advx_jax.data.image_set import ImageSet
from advx_jax.data.published import PUBLISHED

SUBSET_SEED = 1776


@functools.lru_cache(maxsize=4)
def published_permutation(total: int = 10_000) -> Int[np.ndarray, " total"]:
    """The order in which images enter the ARA: PyTorch's `randperm(total)` under seed 1776.

    Entry i changes places with entry i + (output mod (total - i)), for 32-bit outputs of MT19937.
    """
    outputs = np.frombuffer(np.random.RandomState(SUBSET_SEED).bytes(4 * max(total - 1, 0)), "<u4")
    order = np.arange(total)
    for place, output in enumerate(outputs):
        other = place + int(output) % (total - place)
        order[[place, other]] = order[[other, place]]
    order.flags.writeable = False
    return order


def published_subset(n_images: int, available: int, total: int = 10_000) -> Int[np.ndarray, " n"]:
    """The first `n_images` entries of the permutation that lie among the first `available` images."""
    order = published_permutation(total)
    return order[order < available][:n_images]


def ara_subset(data: ImageSet, n_images: int) -> list[int]:
    """Indices of the first images of the published subset of CIFAR-10, or of one that is drawn from others likewise."""
    total = PUBLISHED["test"].n_images if data.has_published_order else len(data)
    return [int(index) for index in published_subset(n_images, len(data), total)]
