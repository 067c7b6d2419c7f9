"""Labelled images in memory, as every source of data gives them."""

import dataclasses
import functools
import hashlib
from typing import Literal

import numpy as np
from jaxtyping import Float, Int64, UInt8

Split = Literal["train", "test"]
Pixels = UInt8[np.ndarray, "n height width 3"]
Labels = Int64[np.ndarray, "n"]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_SIDE = 32


def class_names_of(n_classes: int) -> tuple[str, ...]:
    """What so many classes are called where nobody says it: CIFAR-10's names if they are as many."""
    if n_classes == len(CIFAR10_CLASSES):
        return CIFAR10_CLASSES
    return tuple(f"class_{number}" for number in range(n_classes))


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images, in their original order.

    Attributes:
        images: NHWC pixels as stored, 0 to 255.
        labels: index of each image's class in `class_names`.
        class_names: what the classes are called.
        source: in words, where the images come from.
    """

    images: Pixels
    labels: Labels
    class_names: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sha256 of the pixels (NHWC bytes) followed by the labels (little-endian int64)."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).data)
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()


def unit_images(pixels: UInt8[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Pixels as float32 on the [0,1] scale.

    A true division, as the published networks were trained with (docs/method.md, Images and units): multiplying by
    1/255 differs in the last bit for 126 of the 256 values.
    """
    return pixels.astype(np.float32) / np.float32(255)
