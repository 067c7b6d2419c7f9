"""Labelled images in memory, as every source of data gives them."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int64, UInt8

from advx_jax.data.lazy_pixels import LazyPixels
from advx_jax.data.own_labels import class_index
from advx_jax.errors import UserError
from advx_jax.messages import listed, shown

Split = Literal["train", "test"]
Pixels = UInt8[np.ndarray, "n height width channels"]
Labels = Int64[np.ndarray, "n"]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_SIDE = 32


def numbered_classes(n_classes: int) -> tuple[str, ...]:
    """What classes are called where nobody says it."""
    return tuple(f"class_{number}" for number in range(n_classes))


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images, in their original order.

    Attributes:
        images: NHWC pixels as stored, 0 to 255; where they are many and large, read when they are asked for.
        labels: index of each image's class in `class_names`.
        class_names: what the classes are called.
        source: in words, where the images come from.
        class_names_given: whether somebody says so; otherwise they are `numbered_classes` up to the largest label.
        has_published_order: whether places are those of the CIFAR-10 test set, for which a subset was published.
        is_whole: whether these are all images of a source that does not say which are to train and which to test with.
    """

    images: Pixels | LazyPixels
    labels: Labels
    class_names: tuple[str, ...]
    source: str
    class_names_given: bool = True
    has_published_order: bool = False
    is_whole: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sha256 of the pixels (NHWC bytes) followed by the labels (little-endian int64).

        Of images that are not all in memory, in place of the pixels, of what tells their files from others.
        """
        if isinstance(self.images, LazyPixels):
            digest = hashlib.sha256(self.images.identity())
        else:
            digest = hashlib.sha256(np.ascontiguousarray(self.images).data)
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def part(self, places: Int64[np.ndarray, " some"] | slice, source: str | None = None) -> "ImageSet":
        """Some of the images, by their places; in memory then.

        Args:
            places: which.
            source: in words, where they come from; as of all if None.
        """
        source = self.source if source is None else source
        return dataclasses.replace(self, images=self.images[places], labels=self.labels[places], source=source)


def with_classes_of(data: ImageSet, n_classes: int, class_names: Sequence[str] | None) -> ImageSet:
    """Give a network's classes to images: what has names gets the network's numbers, what has numbers its names.

    Args:
        data: images.
        n_classes: of the network.
        class_names: of the network; None if nobody says what its classes are called.

    Raises:
        UserError: an image has a class that the network does not have.
    """
    if not data.class_names_given:
        if len(data.class_names) > n_classes:
            raise UserError(
                f"expected labels from 0 to {n_classes - 1} for a network of {n_classes} classes, "
                f"got {len(data.class_names) - 1} in {data.source}"
            )
        names = numbered_classes(n_classes) if class_names is None else tuple(class_names)
        return dataclasses.replace(data, class_names=names, class_names_given=class_names is not None)
    if class_names is None or data.class_names == tuple(class_names):
        return data
    indices, unknown = [], []
    for name in data.class_names:
        try:
            indices.append(class_index(name, class_names))
        except UserError:
            unknown.append(shown(name))
    if unknown:
        raise UserError(
            f"expected the network's {n_classes} classes ({listed([shown(name) for name in class_names])}) "
            f"in {data.source}, got others: {listed(unknown)}"
        )
    if len(set(indices)) < len(indices):
        raise UserError(f"expected one name for each class of the network in {data.source}, got two for one")
    labels = np.array(indices, np.int64)[data.labels]
    return dataclasses.replace(data, labels=labels, class_names=tuple(class_names))


def unit_images(pixels: UInt8[np.ndarray, "*shape"] | LazyPixels) -> Float[np.ndarray, "*shape"]:
    """Pixels as float32 on the [0,1] scale.

    A true division, as the published networks were trained with (docs/method.md, Images and units): multiplying by
    1/255 differs in the last bit for 126 of the 256 values.
    """
    return np.asarray(pixels).astype(np.float32) / np.float32(255)
