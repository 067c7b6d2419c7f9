"""The same training with the PyTorch twin: augmentation, attack and descent, on the device."""

from typing import Any

import numpy as np
import torch
from reference.attack import bounded_attack, minimum_norm_attack
from reference.train_step import TrainStep, make_optimiser, robust_step, standard_step

from advx_jax.data.image_set import unit_images
from advx_jax.networks.classifier import Classifier
from advx_jax.training.batches import Plan
from advx_jax.training.draws import Draws
from advx_jax.training.recipe import Recipe
from benchmarks.side_by_side import twin_of
from benchmarks.training.with_jax import Images, Outcome

_ATTACKS = {"l2": bounded_attack, "l2_min": minimum_norm_attack}


class TorchTraining:
    """A training run of the twin. Draws are tensors here.

    Args:
        recipe: of the training.
        images: to train on.
        start: the network before the first step.
        plan: which examples make which batch; JAX's devices have equal parts of it in turn.
        device: where to compute.
    """

    def __init__(self, recipe: Recipe, images: Images, start: Classifier, plan: Plan, device: str) -> None:
        self._recipe, self._plan, self._device = recipe, plan, device
        self._pixels = torch.tensor(np.ascontiguousarray(images.pixels.transpose(0, 3, 1, 2)), device=device)
        self._labels = torch.tensor(images.labels, dtype=torch.int64, device=device)
        self._unit_scale = torch.tensor(unit_images(np.arange(256, dtype=np.uint8)), device=device)
        self._network = twin_of(start).to(device)
        self._optimiser = make_optimiser(self._network, recipe.learning_rate)
        self._integrator = 0.0
        self._n_steps = 0

    def run(self, n_steps: int) -> None:
        """Make steps with draws of PyTorch's own, and wait until they are computed."""
        for _ in range(n_steps):
            self._step(self._draw())
        if self._device == "cuda":
            torch.cuda.synchronize()

    def run_with(self, draws: Draws) -> Outcome:
        """Make one step with draws of JAX's."""
        done = self._step(Draws(*(torch.tensor(drawn, device=self._device) for drawn in draws)))
        norms = [parameter.grad.norm() for parameter in self._network.parameters()]
        return Outcome(done.class_loss.mean().item(), torch.stack(norms).norm().item())

    def _draw(self) -> Draws:
        recipe = self._recipe
        drawn = torch.rand((recipe.batch_size, 6), device=self._device)
        flip, row, column, attacked, logit, tandem = drawn.unbind(1)
        return Draws(
            flip=flip < recipe.augmentation.flip_probability,
            offsets=(torch.stack([row, column], 1) * (2 * recipe.augmentation.padding + 1)).int(),
            attacked=attacked < recipe.attack.attacked_probability,
            random_logit=(logit * recipe.architecture.n_classes).int(),
            tandem=tandem < (recipe.penalty.tandem_probability if recipe.penalty else 0),
        )

    def _step(self, draws: Any) -> TrainStep:
        indices = torch.tensor(self._plan.rows(self._n_steps).indices.reshape(-1), device=self._device)
        self._n_steps += 1
        images, labels = self._augmented(indices, draws), self._labels[indices]
        attack = self._recipe.attack
        if attack.kind != "none":
            settings = {"eps": attack.eps, "steps": attack.steps, "attacked": draws.attacked}
            images = images + _ATTACKS[attack.kind](self._network, images, labels, **settings).delta
        if self._recipe.penalty is None:
            return standard_step(self._network, self._optimiser, images, labels)
        done = robust_step(
            self._network,
            self._optimiser,
            images,
            labels,
            random_logit=draws.random_logit.long(),
            tandem=draws.tandem,
            integrator=self._integrator,
        )
        self._integrator = done.integrator
        return done

    def _augmented(self, indices: Any, draws: Any) -> Any:
        """Padding, flip and crop as one look-up of pixels: edge replication takes the nearest one."""
        n_channels, size = self._pixels.shape[1:3]
        places = torch.arange(size, device=self._device) - self._recipe.augmentation.padding
        rows, columns = ((draws.offsets[:, axis, None] + places).clamp(0, size - 1) for axis in (0, 1))
        columns = torch.where(draws.flip[:, None], size - 1 - columns, columns)
        channels = torch.arange(n_channels, device=self._device)
        pixels = self._pixels[
            indices[:, None, None, None], channels[:, None, None], rows[:, None, :, None], columns[:, None, None, :]
        ]
        return self._unit_scale[pixels.int()]
