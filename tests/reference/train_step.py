"""One training step, standard or with the Lipschitz penalty (docs/method.md, Training); random draws are arguments."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class TrainStep(NamedTuple):
    """What a step computed before it changed the parameters; the gradients stay in `parameter.grad`.

    Attributes:
        class_loss: cross-entropy of each example.
        logits: in training mode.
        psi: weight of the Lipschitz penalty; 0 in a standard step.
        integrator: r, from which psi follows; 0 in a standard step.
    """

    class_loss: Tensor
    logits: Tensor
    psi: float
    integrator: float


def make_optimiser(network: nn.Module, learning_rate: float) -> torch.optim.SGD:
    """The published optimiser."""
    return torch.optim.SGD(network.parameters(), learning_rate, momentum=0.9, weight_decay=1e-4)


def standard_step(network: nn.Module, optimiser: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> TrainStep:
    """Descend the mean cross-entropy; the images may be attacked ones."""
    network.train()
    logits = network(images)
    class_loss = functional.cross_entropy(logits, labels, reduction="none")
    _descend(optimiser, class_loss.mean())
    return TrainStep(class_loss.detach(), logits.detach(), 0.0, 0.0)


def robust_step(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    random_logit: Tensor,
    tandem: Tensor,
    integrator: float,
) -> TrainStep:
    """Descend mean cross-entropy + psi · penalty.

    Args:
        network: to train.
        optimiser: of its parameters.
        images: NCHW; the images may be attacked ones.
        labels: true classes.
        random_logit: (batch,) the logit drawn for each example.
        tandem: (batch,) where True, the label's logit less the largest other one takes its place.
        integrator: r before this step.
    """
    network.train()
    images = images.detach().requires_grad_()
    logits = network(images)
    class_loss = functional.cross_entropy(logits, labels, reduction="none")
    integrator = next_integrator(integrator, class_loss.mean().item())
    psi = penalty_weight(integrator)
    penalty = lipschitz_penalty(logits, images, labels, random_logit=random_logit, tandem=tandem)
    _descend(optimiser, class_loss.mean() + psi * penalty)
    return TrainStep(class_loss.detach(), logits.detach(), psi, integrator)


def lipschitz_penalty(
    logits: Tensor, images: Tensor, labels: Tensor, *, random_logit: Tensor, tandem: Tensor
) -> Tensor:
    """Mean square of the gradient of the chosen logits' sum with respect to the images, itself differentiable."""
    chosen = logits.gather(1, random_logit[:, None])[:, 0]
    real = functional.one_hot(labels, logits.shape[1]).bool()
    # `max` along an axis passes its gradient to one index, `amax` would split ties.
    largest_other = logits.masked_fill(real, -torch.inf).max(1).values
    margin = logits.gather(1, labels[:, None])[:, 0] - largest_other
    score = torch.where(tandem, margin, chosen)
    (gradient,) = torch.autograd.grad(score.sum(), images, create_graph=True)
    return gradient.square().mean()


def next_integrator(integrator: float, mean_loss: float) -> float:
    """The integrator r after a batch of that mean cross-entropy."""
    return max(0.0, integrator + min(1.0, max(-0.01, -math.log(mean_loss / 1.5))))


def penalty_weight(integrator: float) -> float:
    """The weight psi of the Lipschitz penalty at the integrator r."""
    return 220 * math.exp(0.02 * integrator)


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
