"""Other people's attacks: how to import them, the networks that they are given, and what ours do in the same place."""

import contextlib
import importlib
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from networks import TINY, random_classifier
from torch import Tensor, nn

from advx_jax.analysis.robust_accuracy import robust_accuracy
from advx_jax.attacks import Attack
from advx_jax.networks.classifier import Classifier
from reference.flax_layout import layer_names, state_dict_from_flax
from reference.images import to_numpy
from reference.network import ResNet as Twin

BUDGETS = {"L2": 0.5, "Linf": 4 / 255}
"""At which the accuracy left is compared on the published networks."""

N_IMAGES = 64
"""So many of the first test images."""


class _Nothing(types.ModuleType):
    """Stands in for what a peer imports for pictures and models that its attacks do not use."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return object


def peer(module: str) -> Any:
    """Import a module of adv_lib, foolbox, pyautoattack or torchattacks.

    adv_lib imports torchvision and visdom, for networks and pictures that no attack needs; where they are
    missing, nothing stands in for them.

    Raises:
        ImportError: the peer is not installed.
    """
    if module.startswith("adv_lib"):
        for name in ("torchvision", "torchvision.models", "torchvision.transforms", "visdom"):
            if name not in sys.modules:
                try:
                    importlib.import_module(name)
                except ImportError:
                    sys.modules[name] = _Nothing(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)


class Pair(NamedTuple):
    """A tiny random network in float64, twice, and images that both classify alike.

    Attributes:
        classifier: the Flax network.
        twin: the PyTorch network, in evaluation mode.
        images: NHWC.
        labels: the classes that they are taken for.
    """

    classifier: Classifier
    twin: Twin
    images: np.ndarray
    labels: np.ndarray


@contextlib.contextmanager
def in_float64() -> Iterator[Pair]:
    """Let both compute in float64, in which equal attacks stay together for many steps."""
    torch.set_default_dtype(torch.float64)
    try:
        with jax.enable_x64(True):
            classifier = random_classifier(dtype="float64")
            twin = Twin(TINY.stage_lengths, TINY.stage_widths, TINY.n_classes, robust=True).double().eval()
            names = layer_names(TINY.stage_lengths, TINY.stage_widths)
            twin.load_state_dict(state_dict_from_flax(classifier.variables, twin, names))
            images = np.random.default_rng(0).uniform(size=(7, 8, 8, 3))
            labels = np.array(jax.jit(classifier)(images).argmax(-1), np.int64)
            yield Pair(classifier, twin, images, labels)
    finally:
        torch.set_default_dtype(torch.float32)


class Recorded(nn.Module):
    """A network that remembers at which points it was evaluated.

    A peer may write into a point later, when it goes back to its best one, and so into what is remembered:
    `points` ends up with the points that the next steps start from.
    """

    def __init__(self, network: Twin) -> None:
        super().__init__()
        self._network = network
        self._points: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        self._points.append(images.detach())
        return self._network(images)

    @property
    def points(self) -> list[np.ndarray]:
        """All of them, NHWC."""
        return [to_numpy(point) for point in self._points]


def images_left(classifier: Classifier, images: np.ndarray, labels: np.ndarray, attack: Attack) -> int:
    """How many images stand after one of our attacks."""
    return round(len(images) * robust_accuracy(classifier, images, labels, attack))


def images_left_by_peer(twin: Twin, x: Tensor, y: Tensor, attack: Callable[[Tensor, Tensor], Tensor]) -> int:
    """How many images stand after a peer's attack on those that are classified correctly."""
    twin.requires_grad_(False)
    with torch.no_grad():
        correct = twin(x).argmax(1) == y
    x, y = x[correct], y[correct]
    attacked = attack(x, y)
    with torch.no_grad():
        return int((twin(attacked).argmax(1) == y).sum())
