"""The training state and how it begins."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, UInt32

from advx_jax.networks.classifier import Classifier, Variables
from advx_jax.training.recipe import Recipe
from advx_jax.training.schedule import learning_rate_schedule
from advx_jax.training.start import Start, check_start, starting_point


class TrainState(NamedTuple):
    """Everything that a step changes or needs from the step before; a resumed run needs no more.

    Attributes:
        step: number of steps made.
        params: trainable parameters.
        batch_stats: running statistics.
        constants: what the images are normalised with.
        opt_state: velocity and step count of the optimizer.
        integrator: r, from which the penalty's weight ψ follows; stays 0 without a penalty.
        key: key data of all random draws.
    """

    step: Int[Array, ""]
    params: Variables
    batch_stats: Variables
    constants: Variables
    opt_state: Any
    integrator: Float[Array, ""]
    key: UInt32[Array, "2"]


def make_optimizer(recipe: Recipe, steps_per_epoch: int) -> optax.GradientTransformation:
    """SGD as PyTorch's: v ← momentum·v + (g + decay·w), w ← w - rate·v (docs/method.md, Optimiser).

    Args:
        recipe: gives the constants.
        steps_per_epoch: see `learning_rate_schedule`.
    """
    return optax.chain(
        optax.add_decayed_weights(recipe.optimizer.weight_decay),
        optax.sgd(learning_rate_schedule(recipe, steps_per_epoch), momentum=recipe.optimizer.momentum),
    )


def initial_state(
    recipe: Recipe,
    optimizer: optax.GradientTransformation,
    start: Start | None = None,
) -> TrainState:
    """State before the first step.

    Args:
        recipe: gives architecture and seed.
        optimizer: as `make_optimizer` gives it.
        start: network to start from, its weight ψ included; a fresh one if None.

    Raises:
        UserError: the network to start from has another architecture.
    """
    if start is None:
        # Draws only, and not compiled: some releases of JAX take over a minute to compile them.
        images = jax.ShapeDtypeStruct((1, *recipe.architecture.image_shape), jnp.float32)
        variables: Any = recipe.architecture.module().lazy_init(jax.random.key(recipe.seed), images)
        constants = {"mean": recipe.facts.mean, "std": recipe.facts.std}
        variables |= {"constants": {name: jnp.asarray(value, jnp.float32) for name, value in constants.items()}}
        integrator = 0.0
    else:
        classifier, provenance = start
        check_start(recipe, classifier)
        variables = classifier.variables
        integrator = starting_point(recipe.penalty, provenance).integrator
    variables = jax.tree.map(jnp.asarray, variables)
    dtype = jax.tree.leaves(variables["params"])[0].dtype
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        constants=variables["constants"],
        opt_state=optimizer.init(variables["params"]),
        integrator=jnp.asarray(integrator, dtype),
        # The initialisation has used the seed's own key.
        key=jax.random.key_data(jax.random.fold_in(jax.random.key(recipe.seed), 1)),
    )


def classifier_of(state: TrainState, recipe: Recipe) -> Classifier:
    """The network in its present state."""
    variables = {"params": state.params, "batch_stats": state.batch_stats, "constants": state.constants}
    return Classifier(variables, recipe.architecture, recipe.facts.class_names)
