"""The random draws of one training step, one row an example."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from advx_jax.training.recipe import Recipe


class Draws(NamedTuple):
    """What is drawn for each example of a batch.

    Attributes:
        flip: whether to flip the image.
        offsets: row and column of the crop's corner.
        attacked: whether to attack the image.
        random_logit: the logit whose input gradient is penalised.
        tandem: whether the label's margin takes its place.
    """

    flip: Bool[Array, " batch"]
    offsets: Int[Array, "batch 2"]
    attacked: Bool[Array, " batch"]
    random_logit: Int[Array, " batch"]
    tandem: Bool[Array, " batch"]


def draw(recipe: Recipe, key: Key[Array, ""], step: Int[Array, ""], places: Int[Array, " batch"]) -> Draws:
    """Draw for the examples of a batch.

    Args:
        recipe: gives the probabilities.
        key: of the whole run.
        step: number of the step.
        places: of the examples in the global batch; a draw depends on nothing else, so that it is
            the same on any number of devices.
    """
    key = jax.random.fold_in(key, step)
    # One draw of all numbers an example: jitted draws take long to compile in some releases of JAX.
    uniform = jax.vmap(lambda place: jax.random.uniform(jax.random.fold_in(key, place), (6,), jnp.float32))(places)
    flip, row, column, attacked, logit, tandem = uniform.T

    def below(limit: int, drawn: Array) -> Array:
        return jnp.floor(drawn * limit).astype(jnp.int32)

    n_offsets = 2 * recipe.augmentation.padding + 1
    return Draws(
        flip=flip < recipe.augmentation.flip_probability,
        offsets=jnp.stack([below(n_offsets, row), below(n_offsets, column)], axis=1),
        attacked=attacked < recipe.attack.attacked_probability,
        random_logit=below(recipe.architecture.n_classes, logit),
        tandem=tandem < (recipe.penalty.tandem_probability if recipe.penalty else 0),
    )
