"""The small parts of a training step, each against numpy or a number worked out by hand."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from recipes import published_recipe, tiny_recipe

from advx_jax.training.draws import draw
from advx_jax.training.lipschitz_penalty import penalised_score
from advx_jax.training.psi_controller import next_integrator, penalty_weight
from advx_jax.training.schedule import learning_rate_schedule
from advx_jax.training.state import make_optimizer

PENALTY = published_recipe("robust").penalty
N_PLACES = 20_000
# Standard deviations that a count may be off; one draw in 3.5 million is further away, and the key is fixed.
DEVIATIONS = 5
# A few float32 operations.
ROUNDING = 1e-6
# Fourteen float32 steps, whose differences the momentum adds up.
SGD_TOLERANCE = 1e-5


def moved(r, mean_loss):
    return float(next_integrator(PENALTY, jnp.float32(r), jnp.float32(mean_loss)))


@pytest.mark.parametrize(
    ("r", "mean_loss", "expected"),
    [
        # On the target nothing moves.
        (7.0, 1.5, 7.0),
        # Within the bounds r moves by -ln(CE/1.5).
        (7.0, 1.5 * math.exp(-0.25), 7.25),
        (7.0, 1.5 * math.exp(0.004), 6.996),
        # Up by 1 at most, down by 0.01 at most.
        (7.0, 1.5 * math.exp(-3.0), 8.0),
        (7.0, 1.5 * math.exp(1.0), 6.99),
        (7.0, 0.0, 8.0),
        (7.0, math.inf, 6.99),
        # Never below 0.
        (0.0, 2.3, 0.0),
        (0.004, 2.3, 0.0),
        (0.0, 0.75, math.log(2)),
    ],
)
def test_the_integrator_moves_as_specified(r, mean_loss, expected):
    assert moved(r, mean_loss) == pytest.approx(expected, rel=ROUNDING)


def test_the_integrator_of_any_loss_agrees_with_numpy():
    rng = np.random.default_rng(0)
    for r, mean_loss in zip(rng.uniform(0, 300, 50), rng.uniform(0.01, 5, 50), strict=True):
        expected = max(0.0, r + min(1.0, max(-0.01, -np.log(mean_loss / 1.5))))
        assert moved(r, mean_loss) == pytest.approx(expected, rel=ROUNDING)


def test_a_loss_that_is_no_number_does_not_pass_for_one():
    assert math.isnan(moved(7.0, math.nan))


def test_psi_grows_exponentially_with_the_integrator():
    for r, psi in ((0.0, 220.0), (50.0, 220 * math.e), (207.9442, 14080.0)):
        # exp turns a rounded argument of 4 into four times that error.
        assert float(penalty_weight(PENALTY, jnp.float32(r))) == pytest.approx(psi, rel=5 * ROUNDING)


def test_the_penalised_score_is_a_logit_or_the_margin():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(64, 10)).astype(np.float32)
    labels, random_logit = rng.integers(0, 10, (2, 64)).astype(np.int32)
    # Some labels are the largest logit themselves.
    labels[:20] = logits[:20].argmax(-1)
    tandem = rng.random(64) < 0.5
    expected = [
        z[y] - max(z[j] for j in range(10) if j != y) if margin else z[logit]
        for z, y, logit, margin in zip(logits, labels, random_logit, tandem, strict=True)
    ]
    found = penalised_score(*map(jnp.asarray, (logits, labels, random_logit, tandem)))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("logits", "label", "expected"),
    [
        ([0.0, 3.0, 1.0, 2.0], 0, [1, -1, 0, 0]),
        # Of equal largest logits only the first passes its gradient on.
        ([0.0, 3.0, 3.0, 3.0], 0, [1, -1, 0, 0]),
        ([5.0, 1.0, 4.0, 4.0], 0, [1, 0, -1, 0]),
        # The label's own logit is no rival, even as the first of the largest.
        ([3.0, 3.0, 3.0, 0.0], 0, [1, -1, 0, 0]),
        ([2.0, 2.0, 2.0, 2.0], 1, [-1, 1, 0, 0]),
    ],
)
def test_the_margins_gradient_goes_to_one_rival(logits, label, expected):
    def score(z):
        zero = jnp.zeros(1, jnp.int32)
        return penalised_score(z[None], jnp.array([label]), zero, jnp.array([True])).sum()

    np.testing.assert_array_equal(jax.jit(jax.grad(score))(jnp.array(logits)), expected)


def test_the_gradient_of_a_drawn_logit_is_its_own():
    def score(z):
        logit, margin = jnp.array([2, 0]), jnp.array([False, False])
        return penalised_score(z, jnp.array([1, 2]), logit, margin).sum()

    np.testing.assert_array_equal(jax.grad(score)(jnp.ones((2, 4))), [[0, 0, 1, 0], [1, 0, 0, 0]])


@pytest.fixture(scope="module")
def draws():
    """Draws of the recipe `all` for very many places of one batch, as numpy arrays."""
    return draw_for(published_recipe("all"), 0, 5, np.arange(N_PLACES))


def draw_for(recipe, seed, step, places):
    drawn = draw(recipe, jax.random.key(seed), jnp.int32(step), jnp.asarray(places, jnp.int32))
    return jax.tree.map(np.asarray, drawn)


def assert_frequency(hits, probability):
    deviation = math.sqrt(probability * (1 - probability) / len(hits))
    assert abs(hits.mean() - probability) < DEVIATIONS * deviation


def assert_uniform(values, n):
    assert values.min() >= 0
    assert values.max() < n
    for value in range(n):
        assert_frequency(values == value, 1 / n)


def test_draws_have_their_probabilities(draws):
    assert_frequency(draws.flip, 0.5)
    assert_frequency(draws.attacked, 0.5)
    assert_frequency(draws.tandem, 0.2)
    assert_uniform(draws.random_logit, 10)
    assert_uniform(draws.offsets[:, 0], 9)
    assert_uniform(draws.offsets[:, 1], 9)


def test_draws_do_not_depend_on_one_another(draws):
    columns = np.stack([draws.flip, draws.attacked, draws.tandem, draws.random_logit, *draws.offsets.T], axis=0).astype(
        float
    )
    correlations = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlations).max() < DEVIATIONS / math.sqrt(N_PLACES)
    # All 81 corners of the crop are as frequent as they should be.
    assert_uniform(9 * draws.offsets[:, 0] + draws.offsets[:, 1], 81)


def test_draws_follow_the_recipe():
    recipe = published_recipe("adv_train")
    changes = {
        "augmentation": dataclasses.replace(recipe.augmentation, padding=1, flip_probability=0.1),
        "attack": dataclasses.replace(recipe.attack, attacked_probability=0.75),
        "architecture": dataclasses.replace(recipe.architecture, n_classes=3),
    }
    drawn = draw_for(dataclasses.replace(recipe, **changes), 1, 0, np.arange(N_PLACES))
    assert_frequency(drawn.flip, 0.1)
    assert_frequency(drawn.attacked, 0.75)
    assert_uniform(drawn.random_logit, 3)
    assert_uniform(drawn.offsets[:, 0], 3)
    assert not drawn.tandem.any()
    assert draw_for(recipe, 1, 0, np.arange(200)).attacked.all()


def test_draws_depend_on_key_step_and_place_only(draws):
    recipe = published_recipe("all")
    # Other places beside it, in another order, or none: an example keeps its draws.
    for places in ([7], [3, 19_999, 0, 7], np.arange(40, 80)):
        some = draw_for(recipe, 0, 5, places)
        for found, expected in zip(some, draws, strict=True):
            np.testing.assert_array_equal(found, expected[np.asarray(places)])


@pytest.mark.parametrize(("seed", "step"), [(1, 5), (0, 6), (5, 0)])
def test_another_key_or_step_gives_other_draws(draws, seed, step):
    other = draw_for(published_recipe("all"), seed, step, np.arange(N_PLACES))
    # As often equal as draws that have nothing to do with each other.
    assert_frequency(other.flip == draws.flip, 0.5)
    assert_frequency(other.random_logit == draws.random_logit, 0.1)


def sgd(weights, slopes, offsets, rates, momentum, decay):
    """v ← momentum·v + (g + decay·w), w ← w - rate·v, with g = slope·w + offset (docs/method.md, Optimiser)."""
    velocity, path = np.zeros_like(weights), []
    for rate, offset in zip(rates, offsets, strict=True):
        gradient = slopes * weights + offset
        velocity = momentum * velocity + (gradient + decay * weights)
        weights = weights - rate * velocity
        path.append(weights)
    return np.stack(path)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_the_optimizer_is_sgd_with_drops(momentum):
    steps_per_epoch, n_steps = 3, 14
    recipe = tiny_recipe("standard", batch_size=256)
    constants = dataclasses.replace(recipe.optimizer, learning_rate_drops=(2, 4), momentum=momentum, weight_decay=0.05)
    optimizer = make_optimizer(dataclasses.replace(recipe, optimizer=constants), steps_per_epoch)
    rng = np.random.default_rng(0)
    start, slopes = rng.normal(size=(2, 6))
    offsets = rng.normal(size=(n_steps, 6))
    # 0.1 for each 128 examples; a tenth from epoch 2 on, that is from step 6 (counted from 0), and from step 12.
    rates = [0.2] * 6 + [0.02] * 6 + [0.002] * 2
    expected = sgd(start, slopes, offsets, rates, momentum, 0.05)

    params = {"scale": jnp.asarray(start[:2], jnp.float32), "kernel": jnp.asarray(start[2:], jnp.float32)}
    state = optimizer.init(params)
    for step in range(n_steps):
        flat = np.concatenate([params["scale"], params["kernel"]])
        gradient = (slopes * flat + offsets[step]).astype(np.float32)
        updates, state = optimizer.update({"scale": gradient[:2], "kernel": gradient[2:]}, state, params)
        params = optax.apply_updates(params, updates)
        found = np.concatenate([params["scale"], params["kernel"]])
        np.testing.assert_allclose(found, expected[step], rtol=0, atol=SGD_TOLERANCE)
    # Wrong by one step in a drop would be seen.
    late = sgd(start, slopes, offsets, [0.2] * 7 + [0.02] * 6 + [0.002], momentum, 0.05)
    assert np.abs(late[-1] - expected[-1]).max() > 100 * SGD_TOLERANCE


def test_the_learning_rate_drops_at_the_published_epochs():
    recipe = published_recipe("standard")
    rate_at = learning_rate_schedule(recipe, steps_per_epoch=98)
    for epoch, rate in ((0, 0.4), (169, 0.4), (170, 0.04), (194, 0.04), (195, 0.004), (199, 0.004)):
        for step in (epoch * 98, epoch * 98 + 97):
            assert float(rate_at(step)) == pytest.approx(rate, rel=ROUNDING)
    # A device's 128 examples go by 0.1.
    small = dataclasses.replace(recipe, batch_size=128)
    assert float(learning_rate_schedule(small, 98)(0)) == pytest.approx(0.1, rel=ROUNDING)


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        # The rate rises over 4 of 20 steps to 0.1; 16 are left.
        ("linear", [0, 0.025, 0.05, 0.075] + [0.1 * (1 - step / 16) for step in range(16)]),
        ("cosine", [0, 0.025, 0.05, 0.075] + [0.05 * (1 + math.cos(math.pi * step / 16)) for step in range(16)]),
        # Epoch 2 begins with step 8.
        ("drops", [0, 0.025, 0.05, 0.075] + [0.1] * 4 + [0.01] * 12),
    ],
)
def test_warm_up_and_decay(decay, expected):
    recipe = published_recipe("standard")
    constants = dataclasses.replace(recipe.optimizer, warm_up_epochs=1.0, decay=decay, learning_rate_drops=(2,))
    recipe = dataclasses.replace(recipe, batch_size=128, epochs=5, optimizer=constants)
    rate_at = learning_rate_schedule(recipe, steps_per_epoch=4)
    np.testing.assert_allclose([rate_at(step) for step in range(20)], expected, rtol=0, atol=ROUNDING)


def test_half_an_epoch_of_warm_up():
    recipe = published_recipe("standard")
    constants = dataclasses.replace(recipe.optimizer, warm_up_epochs=0.5)
    rate_at = learning_rate_schedule(dataclasses.replace(recipe, optimizer=constants), steps_per_epoch=4)
    np.testing.assert_allclose([rate_at(step) for step in range(4)], [0, 0.2, 0.4, 0.4], rtol=0, atol=ROUNDING)
