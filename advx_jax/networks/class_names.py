"""What a network's classes are called, as far as it tells."""

from typing import Any

import numpy as np

from advx_jax.data.image_set import CIFAR10_CLASSES, CIFAR10_SIDE
from advx_jax.networks.classifier import Classifier
from advx_jax.networks.resnet import CIFAR10_MEAN, CIFAR10_STD


def class_names_of(model: Any) -> tuple[str, ...] | None:
    """The names that a model gives; those of CIFAR-10 for a network that was made for it, as the published ones were.

    Args:
        model: a `Classifier`, an `OwnClassifier`, or any function; None if it does not tell.
    """
    names: tuple[str, ...] | None = getattr(model, "class_names", None)
    return CIFAR10_CLASSES if names is None and _is_for_cifar10(model) else names


def _is_for_cifar10(model: Any) -> bool:
    """Files of the published networks do not say it, but they normalise images by the mean and std of CIFAR-10."""
    if not isinstance(model, Classifier) or model.image_shape != (CIFAR10_SIDE, CIFAR10_SIDE, 3):
        return False
    constants = model.variables.get("constants", {})
    expected = {"mean": CIFAR10_MEAN, "std": CIFAR10_STD}
    return model.n_classes == len(CIFAR10_CLASSES) and all(
        np.array_equal(np.asarray(constants.get(name), np.float32), np.asarray(values, np.float32))
        for name, values in expected.items()
    )
