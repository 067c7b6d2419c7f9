"""Explanations, computed the way the public code does (docs/method.md, Explanations)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .attack import targeted_attack

EPS, STEPS, OVERSHOOT = 0.1, 35, 5.0


class Explanation(NamedTuple):
    """One image explained.

    Attributes:
        images: (2 + classes, 3, height, width), towards the real class, the second, and every class.
        classes: (2 + classes,), which class each is towards.
        confidences: (classes,), softmax of the original image.
        first_ok: (2 + classes,), first step at which the RMS reached eps; 999 + steps if it never did.
    """

    images: Tensor
    classes: Tensor
    confidences: Tensor
    first_ok: Tensor


def explain_image(
    network: nn.Module, image: Tensor, label: int, *, eps: float = EPS, steps: int = STEPS, overshoot: float = OVERSHOOT
) -> Explanation:
    """Explain one image (3, height, width): a batch of one row for each explanation, repeated classes included."""
    with torch.no_grad():
        logits = network(image[None])[0]
    others = logits.clone()
    others[label] = -torch.inf
    classes = torch.tensor([label, int(others.argmax()), *range(len(logits))], device=image.device)
    rows = image.expand(len(classes), *image.shape)
    attack = targeted_attack(network, rows, classes, eps=eps, steps=steps, overshoot=overshoot)
    return Explanation(rows + attack.delta, classes, logits.softmax(0), attack.first_ok)
