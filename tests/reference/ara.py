"""The accuracy-robustness area (docs/method.md, Accuracy-robustness area)."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from .attack import minimum_norm_attack

EPS, STEPS, MOMENTUM = 20.0, 450, 0.9


def minimum_distances(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    criterion: Literal["attack", "btr"],
    *,
    eps: float = EPS,
    steps: int = STEPS,
    momentum: float = MOMENTUM,
) -> tuple[Tensor, Tensor]:
    """RMS of each example's smallest perturbation found, and its `first_ok` (see `Attack`)."""
    attack = minimum_norm_attack(network, images, labels, criterion, eps=eps, steps=steps, momentum=momentum)
    return attack.delta.square().mean((1, 2, 3)).sqrt(), attack.first_ok


def accuracy_robustness_area(distances: np.ndarray | Tensor, n_classes: int = 10, n_bins: int = 1000) -> float:
    """Area between the accuracy under perturbations of growing size and the accuracy of chance."""
    distances = np.asarray(torch.as_tensor(distances).cpu(), np.float64)
    farthest = distances.max()
    if farthest == 0:
        return 0.0
    counts, _ = np.histogram(distances, n_bins, (0, farthest))
    above_chance = 1 - counts.cumsum() / len(distances) - 1 / n_classes
    return float(farthest / n_bins * above_chance.clip(0).sum())
