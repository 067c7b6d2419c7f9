"""Which examples make which batch, and which rows of it a process feeds."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from advx_jax.data.image_set import ImageSet
from advx_jax.errors import UserError
from advx_jax.training.recipe import Recipe
from advx_jax.training.step import Batch

# What the seed's streams of host-side draws are for.
_ORDER, _HELD_OUT = 1, 2


@dataclasses.dataclass(frozen=True)
class Plan:
    """The order of the examples over all epochs; a pure function of seed and step.

    Attributes:
        seed: of the order.
        n_examples: how many there are.
        batch_size: of all devices together; the last batch of an epoch may be shorter.
        epochs: how many.
    """

    seed: int
    n_examples: int
    batch_size: int
    epochs: int

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, the short one included."""
        return -(-self.n_examples // self.batch_size)

    @property
    def n_steps(self) -> int:
        """Of all epochs."""
        return self.steps_per_epoch * self.epochs

    def rows(self, step: int) -> Batch:
        """This process's rows of the batch of a step: arrays with a leading axis of local devices."""
        epoch, index = divmod(step, self.steps_per_epoch)
        indices = _order(self.seed, epoch, self.n_examples)[index * self.batch_size :][: self.batch_size]
        length = len(indices)
        share = self.batch_size // jax.process_count()
        mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)

        def per_device(values: np.ndarray) -> Any:
            return values[mine].reshape(jax.local_device_count(), -1)

        places = np.arange(self.batch_size, dtype=np.int32)
        return Batch(
            indices=per_device(np.pad(indices, (0, self.batch_size - length))),
            places=per_device(places),
            # Full batches do without a mask: it costs a little in every normalisation.
            real=None if length == self.batch_size else per_device(places < length),
        )


def make_plan(recipe: Recipe, n_examples: int) -> Plan:
    """Plan the batches of a recipe.

    Raises:
        UserError: the global batch cannot be shared equally among the devices.
    """
    devices = jax.device_count()
    if recipe.batch_size % devices:
        raise UserError(
            f"config.batch_size: expected a multiple of the {devices} devices "
            f"({jax.process_count()} processes), got {recipe.batch_size}"
        )
    return Plan(recipe.seed, n_examples, recipe.batch_size, recipe.epochs)


def hold_out(data: ImageSet, n_images: int, seed: int) -> tuple[ImageSet, ImageSet | None]:
    """Split training images into those to train on and those to choose by.

    Args:
        data: all training images.
        n_images: how many to hold out, drawn at random; with 0 there is no second set.
        seed: of the draw.

    Raises:
        UserError: nothing would be left to train on.
    """
    if not n_images:
        return data, None
    if n_images >= len(data):
        raise UserError(f"config.held_out: expected fewer than the {len(data)} training images, got {n_images}")
    shuffled = np.random.default_rng([seed, _HELD_OUT]).permutation(len(data))
    kept, out = np.sort(shuffled[n_images:]), np.sort(shuffled[:n_images])

    return data.part(kept), data.part(out)


@functools.lru_cache(maxsize=1)
def _order(seed: int, epoch: int, n_examples: int) -> Int[np.ndarray, " n_examples"]:
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(n_examples).astype(np.int32)
