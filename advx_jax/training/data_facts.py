"""What a training run takes from its images: classes, size, and what they are normalised with."""

import dataclasses

import numpy as np

from advx_jax.data.image_set import ImageSet
from advx_jax.networks.resnet import CIFAR10_MEAN, CIFAR10_STD

# Images at a time: as floats they are eight times as large.
_BLOCK = 1024
# No channel varies less than by one level of 255; one that is always the same would be divided by 0.
_LEAST_STD = 1 / 255
_DIGITS = 4


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """Of a set of images to train on; by default of CIFAR-10.

    Attributes:
        n_classes: K.
        image_shape: height, width and channels.
        class_names: what the classes are called; None if nobody says it, and for CIFAR-10, which networks are known to
            be made for by what they normalise with.
        mean: of each channel, on the [0,1] scale.
        std: of each channel.
    """

    n_classes: int = 10
    image_shape: tuple[int, int, int] = (32, 32, 3)
    class_names: tuple[str, ...] | None = None
    mean: tuple[float, ...] = CIFAR10_MEAN
    std: tuple[float, ...] = CIFAR10_STD


CIFAR10_FACTS = DataFacts()


def facts_of(data: ImageSet) -> DataFacts:
    """Look at images to train on; those of CIFAR-10 are normalised as the published networks do it."""
    shape = data.images.shape[1:]
    if data.has_published_order and shape == CIFAR10_FACTS.image_shape:
        return CIFAR10_FACTS
    n_pixels, sums, squares = len(data) * shape[0] * shape[1], np.zeros(shape[2]), np.zeros(shape[2])
    for begin in range(0, len(data), _BLOCK):
        block = np.asarray(data.images[begin : begin + _BLOCK], np.float64)
        sums += block.sum((0, 1, 2))
        squares += np.square(block).sum((0, 1, 2))
    mean = sums / n_pixels
    std = np.sqrt(np.maximum(squares / n_pixels - mean**2, 0))
    return DataFacts(
        len(data.class_names),
        (int(shape[0]), int(shape[1]), int(shape[2])),
        data.class_names if data.class_names_given else None,
        tuple(np.round(mean / 255, _DIGITS).tolist()),
        tuple(np.round(np.maximum(std / 255, _LEAST_STD), _DIGITS).tolist()),
    )
