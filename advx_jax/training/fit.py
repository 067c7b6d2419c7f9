"""Whether a recipe fits its images and devices, asked before anything is written, and what to tell of it."""

import math
from collections.abc import Iterator

import numpy as np

from advx_jax.data.image_set import ImageSet
from advx_jax.errors import UserError
from advx_jax.messages import size_in_words
from advx_jax.training.batches import hold_out, make_plan
from advx_jax.training.config_fields import expect
from advx_jax.training.loop import Data
from advx_jax.training.parallel import check_devices
from advx_jax.training.recipe import Recipe
from advx_jax.training.start import Start, assumed_weight


def check_fit(recipe: Recipe, data: Data) -> None:
    """Make sure that a recipe fits the data and the devices; the network to start from is `check_start`'s affair.

    Raises:
        UserError: it does not.
    """
    check_devices()
    _check_classes(recipe, data)
    training, _ = hold_out(data.train, recipe.held_out, recipe.seed)
    make_plan(recipe, len(training))
    shapes = data.train.images.shape[1:], data.test.images.shape[1:]
    if shapes[0] != shapes[1]:
        raise UserError(f"expected images to test with of {size_in_words(shapes[0])}, got {size_in_words(shapes[1])}")


def what_to_know(recipe: Recipe, start: Start | None = None) -> Iterator[str]:
    """Lines for a person who begins a run: what may be meant, but probably is not."""
    drops = recipe.optimizer.learning_rate_drops
    if recipe.optimizer.decay == "drops" and drops and min(drops) >= recipe.epochs:
        yield (
            f"no drop of the learning rate lies within the {recipe.epochs} epochs: "
            f"config.optimizer.learning_rate_drops is {drops}"
        )
    if start is not None and (line := assumed_weight(recipe, start[1])):
        yield line


def _check_classes(recipe: Recipe, data: Data) -> None:
    _check_several_classes(data.train)
    n_classes, largest = recipe.architecture.n_classes, int(max(data.train.labels.max(), data.test.labels.max()))
    if largest >= n_classes:
        raise UserError(
            f"config.architecture.n_classes: expected at least {largest + 1} for these data, got {n_classes}"
        )
    if data.train.class_names_given and n_classes != len(data.train.class_names):
        raise UserError(
            f"config.architecture.n_classes: expected {len(data.train.class_names)}, or 0 for as many as the data "
            f"have, got {n_classes}"
        )


def _check_several_classes(images: ImageSet) -> None:
    labels = np.unique(images.labels)
    if len(labels) < 2:
        names = "".join(f" ({images.class_names[label]})" for label in labels)
        raise UserError(f"expected images of at least 2 classes in {images.source}, got {len(labels)}{names}")


def check_target(recipe: Recipe) -> None:
    """Make sure that the penalty's weight cannot grow for ever, as it does with a target above the loss of guessing.

    Asked of a run that begins; one that an earlier release began can go on and be exported.

    Raises:
        UserError: it would.
    """
    if recipe.penalty is None:
        return
    target, guessing = recipe.penalty.target_loss, math.log(recipe.architecture.n_classes)
    expected = f"above 0 and below ln K = {guessing:.3f}, the loss of a network that guesses"
    expect(0 < target < guessing, "penalty.target_loss", expected, target)
