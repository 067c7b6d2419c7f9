"""The same training step with JAX and with PyTorch, in turns."""

import functools
import statistics
from typing import NamedTuple

import jax

from advx_jax.training.recipe import Recipe
from benchmarks.side_by_side import alternate, device_beside_jax
from benchmarks.training.with_jax import WARM_UP, JaxTraining, Outcome, random_images, steps_per_turn
from benchmarks.training.with_torch import TorchTraining

# Seen: 2e-6, on a CPU. Another flip, crop or logit, or one attack step less, changes loss or gradient by 3e-4 or more.
_AGREEMENT = 1e-4


class Comparison(NamedTuple):
    """A recipe's step with both.

    Attributes:
        rounds: seconds of a step with PyTorch and with JAX, for each round.
        first_torch: what PyTorch saw of the first step.
        first_jax: what JAX saw of it.
    """

    rounds: list[tuple[float, float]]
    first_torch: Outcome
    first_jax: Outcome

    @property
    def torch(self) -> float:
        """Best time of PyTorch."""
        return min(torch for torch, _ in self.rounds)

    @property
    def jax(self) -> float:
        """Best time of JAX."""
        return min(jax for _, jax in self.rounds)

    @property
    def best_ratio(self) -> float:
        """Best time of JAX over PyTorch's."""
        return self.jax / self.torch

    @property
    def median_ratio(self) -> float:
        """Median over the rounds of JAX's time over PyTorch's."""
        return statistics.median(jax / torch for torch, jax in self.rounds)


def compare_steps(recipe: Recipe, rounds: int, n_steps: int | None = None) -> Comparison:
    """Time a recipe's steps with both, on one device.

    Args:
        recipe: of the training.
        rounds: how often each has its turn.
        n_steps: in one turn; as the platform needs it if None.

    Raises:
        UserError: PyTorch cannot use the kind of device that JAX uses.
        RuntimeError: the first steps differ, although network, images and draws are the same.
    """
    device = device_beside_jax()
    n_steps = n_steps or steps_per_turn(jax.default_backend())
    images = random_images(recipe)
    with_jax = JaxTraining(recipe, images)
    with_torch = TorchTraining(recipe, images, with_jax.start, with_jax.plan, device)
    first_torch, first_jax = with_torch.run_with(with_jax.first_draws), with_jax.run(1)
    for name, by_torch, by_jax in zip(Outcome._fields, first_torch, first_jax, strict=True):
        if not abs(by_jax - by_torch) <= _AGREEMENT * abs(by_torch):
            raise RuntimeError(f"not the same work: {name} is {by_torch} with PyTorch and {by_jax} with JAX")
    with_torch.run(WARM_UP - 1)
    with_jax.run(WARM_UP - 1)
    turns = alternate(functools.partial(with_torch.run, n_steps), functools.partial(with_jax.run, n_steps), rounds)
    return Comparison([(torch / n_steps, jax / n_steps) for torch, jax in turns], first_torch, first_jax)
