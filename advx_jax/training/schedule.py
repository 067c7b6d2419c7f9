"""The learning rate, step by step."""

import optax

from advx_jax.training.recipe import Recipe

DROP = 0.1
"""Factor of each drop of the published schedule."""


def learning_rate_schedule(recipe: Recipe, steps_per_epoch: int) -> optax.Schedule:
    """Learning rate for the global batch as a function of the step, counted from 0.

    Args:
        recipe: gives the highest rate, the warm-up and the way down; see `Optimizer`.
        steps_per_epoch: by which epochs become steps.
    """
    constants = recipe.optimizer
    warm_up = round(constants.warm_up_epochs * steps_per_epoch)
    remaining = max(1, recipe.epochs * steps_per_epoch - warm_up)
    if constants.decay == "drops":
        drops = {epoch * steps_per_epoch - warm_up: DROP for epoch in constants.learning_rate_drops}
        decay = optax.piecewise_constant_schedule(recipe.learning_rate, drops)
    elif constants.decay == "linear":
        decay = optax.linear_schedule(recipe.learning_rate, 0.0, remaining)
    else:
        decay = optax.cosine_decay_schedule(recipe.learning_rate, remaining)
    if warm_up == 0:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, recipe.learning_rate, warm_up), decay], [warm_up])
