"""One step of training as a pure function (docs/method.md, Training); it runs inside a mapped axis.

Each device holds its rows of the global batch. Sums over the batch are summed over the axis, and
the gradients with them, so that the result is that of the global batch on one device.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt8

from advx_jax.attacks.ascent import cross_entropy
from advx_jax.attacks.norms import mean_square
from advx_jax.attacks.published import Published, PublishedBounded
from advx_jax.data.augmentation import augment, unit_scale
from advx_jax.networks.classifier import Variables
from advx_jax.networks.precision import product_precision
from advx_jax.training.draws import Draws, draw
from advx_jax.training.lipschitz_penalty import penalised_score
from advx_jax.training.psi_controller import next_integrator, penalty_weight
from advx_jax.training.recipe import Recipe
from advx_jax.training.state import TrainState

AXIS = "devices"
"""Name of the mapped axis."""

ATTACKS = {"l2": PublishedBounded, "l2_min": Published}
"""The paper's training attacks, by their names in recipes."""


class TrainingSet(NamedTuple):
    """All training images, on each device.

    Attributes:
        images: pixels as stored.
        labels: true classes.
    """

    images: UInt8[Array, "n height width 3"]
    labels: Int[Array, " n"]


class Batch(NamedTuple):
    """One device's rows of a global batch; on the host, those of all local devices.

    Attributes:
        indices: of the examples in the training set.
        places: of the examples in the global batch, on which their random draws depend.
        real: which rows are examples; the others are padding. None if all are.
    """

    indices: Int[Array, "*devices batch"]
    places: Int[Array, "*devices batch"]
    real: Bool[Array, "*devices batch"] | None


class Metrics(NamedTuple):
    """What a step saw of its global batch, before it changed the parameters.

    Attributes:
        n_examples: how many there were.
        class_loss: mean cross-entropy, in training mode, on the attacked images.
        n_correct: how many were classified right.
        penalty: mean((∂s/∂x)²); 0 without the Lipschitz penalty.
        psi: its weight ψ.
        integrator: r.
        gradient_norm: of the whole loss without weight decay.
    """

    n_examples: Int[Array, ""]
    class_loss: Float[Array, ""]
    n_correct: Int[Array, ""]
    penalty: Float[Array, ""]
    psi: Float[Array, ""]
    integrator: Float[Array, ""]
    gradient_norm: Float[Array, ""]


class Examples(NamedTuple):
    """A device's rows as the loss sees them: images on the [0,1] scale, labels, and which are no padding."""

    images: Float[Array, "batch height width 3"]
    labels: Int[Array, " batch"]
    real: Bool[Array, " batch"] | None


Step = Callable[[TrainState, TrainingSet, Batch], tuple[TrainState, Metrics]]


def make_step(recipe: Recipe, optimizer: optax.GradientTransformation) -> Step:
    """Build the step of a recipe: augment, attack, descend.

    Args:
        recipe: what to compute.
        optimizer: as `make_optimizer` gives it.

    Returns:
        A pure function, to be called inside a mapped axis named `AXIS`.
    """

    def step(state: TrainState, data: TrainingSet, batch: Batch) -> tuple[TrainState, Metrics]:
        draws = draw(recipe, jax.random.wrap_key_data(state.key), state.step, batch.places)
        pixels = augment(data.images[batch.indices], draws.flip, draws.offsets, recipe.augmentation.padding)
        images = unit_scale(pixels).astype(state.integrator.dtype)
        examples = Examples(images, data.labels[batch.indices], batch.real)
        if recipe.attack.kind != "none":
            state, examples = attack_examples(recipe, state, examples, draws)
        return descend(recipe, optimizer, state, examples, draws)

    return step


def attack_examples(recipe: Recipe, state: TrainState, examples: Examples, draws: Draws) -> tuple[TrainState, Examples]:
    """Replace the drawn examples by attacked ones; every pass of the attack moves the running statistics."""

    def network(images: Array, batch_stats: Variables) -> tuple[Array, Variables]:
        return _training_pass(recipe, state, state.params, batch_stats, examples._replace(images=images))

    attack = ATTACKS[recipe.attack.kind](eps=recipe.attack.eps, steps=recipe.attack.steps, momentum=0.0)
    perturbation, batch_stats = attack.perturb(
        network, examples.images, examples.labels, state.batch_stats, draws.attacked
    )
    attacked = lax.stop_gradient(examples.images + perturbation)
    return state._replace(batch_stats=batch_stats), examples._replace(images=attacked)


def descend(
    recipe: Recipe, optimizer: optax.GradientTransformation, state: TrainState, examples: Examples, draws: Draws
) -> tuple[TrainState, Metrics]:
    """Descend the mean cross-entropy + ψ · penalty of the global batch by one step."""
    if examples.real is None:
        n_examples = jnp.asarray(len(examples.labels) * lax.axis_size(AXIS), jnp.int32)
    else:
        n_examples = lax.psum(examples.real.sum(dtype=jnp.int32), AXIS)

    def loss(params: Variables) -> tuple[Array, tuple[Variables, Metrics]]:
        def scores(images: Array) -> tuple[Array, tuple[Array, Variables]]:
            logits, batch_stats = _training_pass(
                recipe, state, params, state.batch_stats, examples._replace(images=images)
            )
            # A sum, whose gradient runs through the batch's statistics to every image.
            score = penalised_score(logits, examples.labels, draws.random_logit, draws.tandem).sum()
            return score, (logits, batch_stats)

        if recipe.penalty is None:
            _, (logits, batch_stats) = scores(examples.images)
        else:
            input_gradient, (logits, batch_stats) = jax.grad(scores, has_aux=True)(examples.images)

        class_loss_sum = _sum_of_real(examples, cross_entropy(logits, examples.labels))
        class_loss = lax.psum(lax.stop_gradient(class_loss_sum), AXIS) / n_examples
        objective = class_loss_sum
        penalty = psi = jnp.zeros_like(state.integrator)
        integrator = state.integrator
        if recipe.penalty is not None:
            # From this batch's loss, before ψ is used; no gradient flows through ψ.
            integrator = next_integrator(recipe.penalty, integrator, class_loss)
            psi = penalty_weight(recipe.penalty, integrator)
            penalty_sum = _sum_of_real(examples, mean_square(input_gradient))
            penalty = lax.psum(lax.stop_gradient(penalty_sum), AXIS) / n_examples
            objective += psi * penalty_sum
        correct = _sum_of_real(examples, (logits.argmax(-1) == examples.labels).astype(jnp.int32))
        metrics = Metrics(
            n_examples=n_examples,
            class_loss=class_loss,
            n_correct=lax.psum(correct, AXIS),
            penalty=penalty,
            psi=psi,
            integrator=integrator,
            gradient_norm=jnp.zeros_like(class_loss),
        )
        return objective / n_examples, (batch_stats, metrics)

    # The gradient of the local share, summed afterwards: differentiating a psum sums cotangents itself.
    gradients, (batch_stats, metrics) = jax.grad(loss, has_aux=True)(state.params)
    gradients = lax.psum(gradients, AXIS)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    if recipe.batch_norm == "per_device":
        batch_stats = _averaged(batch_stats, examples.real)
    state = state._replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
        integrator=metrics.integrator,
    )
    return state, metrics._replace(gradient_norm=optax.tree.norm(gradients))


def _training_pass(
    recipe: Recipe, state: TrainState, params: Variables, batch_stats: Variables, examples: Examples
) -> tuple[Float[Array, "batch classes"], Variables]:
    """Logits in training mode, and the running statistics after the pass.

    Padding gets logits of 0, which no gradient leads away from: not to its own pixels, and not
    through the batch's statistics to those of the examples.
    """
    axis_name = AXIS if recipe.batch_norm == "synchronised" else None
    dtype = jnp.bfloat16 if recipe.compute_dtype == "bfloat16" else None
    precision = product_precision(recipe.compute_dtype)
    logits, moved = recipe.architecture.module(axis_name, dtype, precision).apply(
        {"params": params, "batch_stats": batch_stats, "constants": state.constants},
        examples.images,
        train=True,
        real=examples.real,
        mutable=["batch_stats"],
    )
    if examples.real is not None:
        logits = jnp.where(examples.real[:, None], logits, 0)
    return logits, moved["batch_stats"]


def _sum_of_real(examples: Examples, values: Array) -> Array:
    return values.sum() if examples.real is None else jnp.where(examples.real, values, 0).sum()


def _averaged(batch_stats: Variables, real: Array | None) -> Variables:
    """Mean over the devices that have examples."""
    if real is None:
        return lax.pmean(batch_stats, AXIS)
    weight = real.any().astype(jax.tree.leaves(batch_stats)[0].dtype)
    total = lax.psum(weight, AXIS)
    return jax.tree.map(lambda value: lax.psum(weight * value, AXIS) / total, batch_stats)
