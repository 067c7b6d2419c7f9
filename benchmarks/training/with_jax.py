"""Training as `advx_jax.training.loop` does it, less all that is kept of it."""

import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advx_jax.errors import UserError
from advx_jax.training.batches import make_plan
from advx_jax.training.draws import Draws, draw
from advx_jax.training.parallel import on_all_devices, replicated
from advx_jax.training.recipe import Recipe
from advx_jax.training.state import classifier_of, initial_state, make_optimizer
from advx_jax.training.step import TrainingSet, make_step

WARM_UP = 2
"""Steps before any is timed: one that compiles, and one more that fills caches and memory pools."""

# How many there are makes no difference to a step; none is a short one.
_BATCHES = 8


class Images(NamedTuple):
    """Random images to train on.

    Attributes:
        pixels: NHWC uint8.
        labels: random classes.
    """

    pixels: np.ndarray
    labels: np.ndarray


class Outcome(NamedTuple):
    """By which two implementations of the same step are compared.

    Attributes:
        class_loss: mean cross-entropy on the augmented and attacked images.
        gradient_norm: of the whole loss without weight decay.
    """

    class_loss: float
    gradient_norm: float


def use_devices(n_devices: int, n_cpu_devices: int | None = None) -> None:
    """Let JAX see the first devices of this machine only; to be called before JAX is used.

    Args:
        n_devices: how many.
        n_cpu_devices: as how many to show a CPU, where there is no accelerator; as many if None.

    Raises:
        UserError: there are not as many.
    """
    # Another framework or process works on the same devices, and needs memory there.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax.config.update("jax_num_cpu_devices", n_cpu_devices or n_devices)
    for platform in ("cuda", "rocm"):
        jax.config.update(f"jax_{platform}_visible_devices", ",".join(map(str, range(n_devices))))
    try:
        found = jax.device_count()
    except RuntimeError as error:
        raise UserError(f"cannot use {n_devices} devices: {error}") from error
    expected = n_cpu_devices or n_devices if jax.default_backend() == "cpu" else n_devices
    if found != expected:
        raise UserError(f"expected {expected} devices, got {found} ({jax.default_backend()})")


def random_images(recipe: Recipe) -> Images:
    """Images for a few batches of a recipe."""
    rng = np.random.default_rng(0)
    n_images = _BATCHES * recipe.batch_size
    pixels = rng.integers(0, 256, (n_images, 32, 32, 3), np.uint8)
    return Images(pixels, rng.integers(0, recipe.architecture.n_classes, n_images, np.int32))


def steps_per_turn(platform: str) -> int:
    """Steps to time at once: on a CPU one takes seconds; elsewhere the next is handed out while one is computed."""
    return 1 if platform == "cpu" else 10


class JaxTraining:
    """A training run on all devices that JAX sees, from a fresh network on.

    Args:
        recipe: of the training.
        images: to train on.

    Attributes:
        plan: which examples make which batch.
        start: the network before the first step.
        first_draws: the random draws of the first step.
    """

    def __init__(self, recipe: Recipe, images: Images) -> None:
        self.plan = make_plan(recipe, len(images.labels))
        optimizer = make_optimizer(recipe, self.plan.steps_per_epoch)
        state = initial_state(recipe, optimizer)
        self.start = jax.device_get(classifier_of(state, recipe))
        places = jnp.arange(recipe.batch_size, dtype=jnp.int32)
        self.first_draws: Draws = jax.device_get(draw(recipe, jax.random.wrap_key_data(state.key), state.step, places))
        self._step = on_all_devices(make_step(recipe, optimizer))
        self._images = TrainingSet(*replicated(images))
        self._state = replicated(state)
        self._n_steps = 0
        self._stop = np.zeros(jax.local_device_count(), bool)

    def run(self, n_steps: int) -> Outcome:
        """Make steps, and wait until they are computed; returns what the last one saw."""
        for _ in range(n_steps):
            rows = self.plan.rows(self._n_steps)
            self._state, metrics, _ = self._step(self._state, self._images, rows, self._stop)
            self._n_steps += 1
        jax.block_until_ready(self._state)
        return Outcome(metrics.class_loss.item(), metrics.gradient_norm.item())
