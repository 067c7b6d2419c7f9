"""The attack loop (docs/method.md, Attack loop).

The network runs in the mode it is in: in training mode the gradient goes through the batch statistics, and every pass
moves the running ones. Late examples are recorded in `first_ok`, where the public code raises an error.
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

# What the published figures hold for "never", before the number of steps is added.
NEVER = 999


class Attack(NamedTuple):
    """Outcome of an attack.

    Attributes:
        delta: the perturbations (batch, 3, height, width).
        first_ok: first step at which an example need not follow the gradient; 999 + steps where there was none.
        trajectory: the perturbation before each step and after the last; empty unless asked for.
    """

    delta: Tensor
    first_ok: Tensor
    trajectory: tuple[Tensor, ...]


def bounded_attack(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int,
    overshoot: float = 1.0,
    momentum: float = 0.0,
    attacked: Tensor | None = None,
    keep_trajectory: bool = False,
) -> Attack:
    """Away from the labels, to an RMS of eps. `attacked` (batch,) leaves out the examples that are False."""

    def objective(logits: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels, reduction="sum")

    walk = _walk(network, images, objective, _inside(eps), _Steps(eps, steps, overshoot, momentum), attacked)
    return _last(walk, images, steps, keep_trajectory)


def targeted_attack(
    network: nn.Module,
    images: Tensor,
    classes: Tensor,
    *,
    eps: float,
    steps: int,
    overshoot: float = 1.0,
    momentum: float = 0.0,
    keep_trajectory: bool = False,
) -> Attack:
    """Towards the given classes, to an RMS of eps."""

    def objective(logits: Tensor) -> Tensor:
        return -functional.cross_entropy(logits, classes, reduction="sum")

    walk = _walk(network, images, objective, _inside(eps), _Steps(eps, steps, overshoot, momentum), None)
    return _last(walk, images, steps, keep_trajectory)


def minimum_norm_attack(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    criterion: Literal["attack", "btr"] = "attack",
    *,
    eps: float,
    steps: int,
    overshoot: float = 1.0,
    momentum: float = 0.0,
    attacked: Tensor | None = None,
    keep_trajectory: bool = False,
) -> Attack:
    """Smallest perturbation that misclassifies ("attack"), or leaves the label no better than chance ("btr")."""

    def objective(logits: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels, reduction="sum")

    def follow(logits: Tensor, _delta: Tensor) -> Tensor:
        if criterion == "attack":
            return logits.argmax(1) == labels
        confidences = logits.softmax(1).gather(1, labels[:, None])[:, 0]
        return confidences > 1 / logits.shape[1]

    best = torch.zeros_like(images)
    smallest = images.new_full((len(images),), torch.inf)
    first_ok = _never(images, steps)
    trajectory = []
    walk = _walk(network, images, objective, follow, _Steps(eps, steps, overshoot, momentum), attacked)
    for step, (delta, following) in enumerate(walk):
        if following is None:
            with torch.no_grad():
                following = follow(network(images + delta), delta)
        size = _mean_square(delta)[:, 0, 0, 0]
        better = ~following & (size < smallest)
        best = torch.where(better[:, None, None, None], delta, best)
        smallest = torch.where(better, size, smallest)
        first_ok[~following & (first_ok > step)] = step
        if keep_trajectory:
            trajectory.append(delta)
    return Attack(best, first_ok, tuple(trajectory))


class _Steps(NamedTuple):
    eps: float
    number: int
    overshoot: float
    momentum: float

    def length(self, step: int) -> float:
        """Linearly falling; all together eps·overshoot."""
        return self.eps * self.overshoot * (self.number - step) / (self.number * (self.number + 1) / 2)


_Follow = Callable[[Tensor, Tensor], Tensor]


def _walk(
    network: nn.Module,
    images: Tensor,
    objective: Callable[[Tensor], Tensor],
    follow: _Follow,
    steps: _Steps,
    attacked: Tensor | None,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield the perturbation and who follows the gradient, before each step; after the last, who follows is None."""
    delta = torch.zeros_like(images)
    velocity = torch.zeros_like(images)
    for step in range(steps.number):
        delta.requires_grad_()
        logits = network(images + delta)
        (gradient,) = torch.autograd.grad(objective(logits), delta)
        delta = delta.detach()
        following = follow(logits.detach(), delta)
        yield delta, following
        direction = torch.where(following[:, None, None, None], gradient, -delta)
        direction = direction / (1e-8 + _mean_square(direction).sqrt())
        if steps.momentum > 0:
            velocity = steps.momentum * velocity + (1 - steps.momentum) * direction
            direction = velocity
        if attacked is not None:
            direction = direction * attacked[:, None, None, None]
        delta = delta + steps.length(step) * direction
    yield delta, None


def _last(walk: Iterator[tuple[Tensor, Tensor | None]], images: Tensor, steps: int, keep_trajectory: bool) -> Attack:
    first_ok = _never(images, steps)
    trajectory = []
    for step, (delta, following) in enumerate(walk):
        if following is not None:
            first_ok[~following & (first_ok > step)] = step
        if keep_trajectory:
            trajectory.append(delta)
    return Attack(delta, first_ok, tuple(trajectory))


def _inside(eps: float) -> _Follow:
    def follow(_logits: Tensor, delta: Tensor) -> Tensor:
        return _mean_square(delta)[:, 0, 0, 0] < eps**2

    return follow


def _never(images: Tensor, steps: int) -> Tensor:
    return torch.full((len(images),), NEVER + steps, device=images.device)


def _mean_square(x: Tensor) -> Tensor:
    return x.square().mean((1, 2, 3), keepdim=True)
