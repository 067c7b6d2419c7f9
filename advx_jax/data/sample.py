"""The small sample that ships with the package, so that every command runs without a download."""

import importlib.resources

import numpy as np

from advx_jax.data.image_set import CIFAR10_CLASSES, ImageSet

SAMPLE_FILE = "cifar10_sample.npz"


def load_sample() -> ImageSet:
    """Load the first 256 images of the CIFAR-10 test set, in order."""
    file = importlib.resources.files("advx_jax.data") / SAMPLE_FILE
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    source = f"the shipped sample (the first {len(labels)} test images)"
    return ImageSet(images, labels, CIFAR10_CLASSES, source, has_published_order=True)
