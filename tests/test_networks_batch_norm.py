"""Batch normalisation with padding, on several devices and in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advx_jax.networks.batch_norm import BatchNorm

N, PADDING, CHANNELS = 6, 3, 4
REAL = jnp.arange(N + PADDING) < N
# Sums in another order, in float32, of values of order 1.
ROUNDING = 1e-5
# Gradients of gradients multiply a few such sums.
SECOND_ORDER = 1e-4
# bfloat16 has 8 significant bits: the output is rounded once, by half a unit in the last of them.
BFLOAT16_ROUNDING = 2**-8


@pytest.fixture(scope="module")
def variables():
    """Every number matters: nothing is 0 or 1 as after initialisation."""
    rng = np.random.default_rng(0)

    def positive():
        return jnp.asarray(rng.uniform(0.5, 1.5, CHANNELS), jnp.float32)

    def any_sign():
        return jnp.asarray(rng.normal(size=CHANNELS), jnp.float32)

    return {
        "params": {"scale": positive(), "bias": any_sign()},
        "batch_stats": {"mean": any_sign(), "var": positive()},
    }


@pytest.fixture(scope="module")
def x():
    """A batch whose channels differ in mean and spread, without padding."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(N, 3, 2, CHANNELS)) * [0.5, 1, 2, 3] + [0, 5, -3, 1]
    return jnp.asarray(values, jnp.float32)


@pytest.fixture(scope="module")
def weights():
    """Of the outputs in a loss; without them its gradient would be 0."""
    return jnp.asarray(np.random.default_rng(2).normal(size=(N, 3, 2, CHANNELS)), jnp.float32)


def padded(x, value):
    return jnp.concatenate([x, jnp.full((PADDING, *x.shape[1:]), value, x.dtype)])


def train(variables, x, real=None, axis_name=None):
    norm = BatchNorm(axis_name=axis_name)
    y, moved = norm.apply(variables, x, train=True, real=real, mutable=["batch_stats"])
    return y, moved["batch_stats"]


def by_hand(variables, x):
    """Output and running statistics of a training pass, in float64 (docs/method.md, Network)."""
    x = np.asarray(x, np.float64)
    params, before = (jax.tree.map(np.float64, variables[name]) for name in ("params", "batch_stats"))
    flat = x.reshape(-1, x.shape[-1])
    mean, biased, unbiased = flat.mean(0), flat.var(0), flat.var(0, ddof=1)
    y = (x - mean) / np.sqrt(biased + 1e-5) * params["scale"] + params["bias"]
    return y, {"mean": 0.9 * before["mean"] + 0.1 * mean, "var": 0.9 * before["var"] + 0.1 * unbiased}


def assert_close(found, expected, tolerance=ROUNDING):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), found, expected)


def test_a_training_pass_is_as_pytorch_computes_it(variables, x):
    assert_close(train(variables, x), by_hand(variables, x))


@pytest.mark.parametrize("value", [0.0, 1.0, -1e30])
def test_padding_changes_neither_output_nor_statistics(variables, x, value):
    y, moved = train(variables, padded(x, value), REAL)
    assert_close((y[:N], moved), by_hand(variables, x))


def test_padding_may_lie_anywhere(variables, x):
    order = np.random.default_rng(3).permutation(N + PADDING)
    y, moved = train(variables, padded(x, 1e30)[order], REAL[order])
    expected, expected_moved = by_hand(variables, x)
    assert_close((y[np.argsort(order)][:N], moved), (expected, expected_moved))


@pytest.mark.parametrize("value", [0.0, -1e30])
def test_padding_changes_no_gradient(variables, x, weights, value):
    def loss(x, params, real):
        y, _ = train({**variables, "params": params}, x, real)
        return (weights * jnp.square(y[:N])).sum()

    gradient = jax.grad(loss, argnums=(0, 1))
    expected = gradient(x, variables["params"], None)
    found_x, found_params = gradient(padded(x, value), variables["params"], REAL)
    assert_close((found_x[:N], found_params), expected)
    assert (found_x[N:] == 0).all()
    assert all(float(jnp.abs(leaf).min()) > 100 * ROUNDING for leaf in jax.tree.leaves(expected[1]))


@pytest.mark.parametrize("value", [0.0, 1e3])
def test_padding_changes_no_gradient_of_a_gradient(variables, x, weights, value):
    """As the Lipschitz penalty takes it: of the squared input gradient, by the parameters and the input."""

    def penalty(x, params, real):
        def score(x):
            y, _ = train({**variables, "params": params}, x, real)
            return (weights * y[:N] ** 3).sum()

        return jnp.square(jax.grad(score)(x)[:N]).mean()

    gradient = jax.grad(penalty, argnums=(0, 1))
    expected = gradient(x, variables["params"], None)
    found_x, found_params = gradient(padded(x, value), variables["params"], REAL)
    # Relative to the largest, because sums cancel.
    found = {"x": found_x[:N], **found_params}
    for name, wanted in {"x": expected[0], **expected[1]}.items():
        size = float(jnp.abs(wanted).max())
        np.testing.assert_allclose(found[name], wanted, rtol=0, atol=SECOND_ORDER * size, err_msg=name)
    assert (found_x[N:] == 0).all()


def test_a_mask_without_padding_is_the_same_as_none(variables, x):
    assert_close(train(variables, x, jnp.ones(N, bool)), train(variables, x))


def test_a_batch_of_padding_alone_moves_nothing(variables, x):
    def total(x, params):
        y, moved = train({**variables, "params": params}, x, jnp.zeros(N, bool))
        return y.sum(), (y, moved)

    gradients, (y, moved) = jax.grad(total, argnums=(0, 1), has_aux=True)(x, variables["params"])
    jax.tree.map(np.testing.assert_array_equal, moved, variables["batch_stats"])
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((gradients, y)))
    # The running statistics stand in for those of the batch.
    assert_close(y, BatchNorm().apply(variables, x, train=False))


def test_no_mask_is_needed_in_evaluation(variables, x):
    mean, var = (np.asarray(variables["batch_stats"][name], np.float64) for name in ("mean", "var"))
    expected = (np.asarray(x, np.float64) - mean) / np.sqrt(var + 1e-5)
    expected = expected * np.asarray(variables["params"]["scale"]) + np.asarray(variables["params"]["bias"])
    assert_close(BatchNorm().apply(variables, x, train=False), expected)
    assert_close(BatchNorm().apply(variables, padded(x, 1e30), train=False, real=REAL)[:N], expected)


@pytest.mark.parametrize("masked", [False, True])
def test_bfloat16_features_have_float32_statistics(variables, masked):
    # So many values that sums in bfloat16 would stand still at a fraction of the whole.
    values = np.random.default_rng(4).normal(size=(8, 32, 32, CHANNELS)) * 0.5 + 2
    x = jnp.asarray(values, jnp.bfloat16)
    real = jnp.arange(8) < 6 if masked else None
    y, moved = train(variables, x, real)
    counted = x[:6] if masked else x
    expected, expected_moved = by_hand(variables, counted.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in moved.values()} == {jnp.dtype("float32")}
    assert_close(moved, expected_moved)
    np.testing.assert_allclose(y[: len(counted)].astype(np.float32), expected, rtol=BFLOAT16_ROUNDING, atol=ROUNDING)
    assert BatchNorm().apply(variables, x, train=False).dtype == jnp.bfloat16


# Padding alone on the last device; examples there alone.
@pytest.mark.parametrize("real", [None, REAL, ~REAL], ids=["no padding", "padding last", "padding first"])
def test_devices_share_the_statistics_of_the_real_batch(variables, weights, real):
    x = jax.random.normal(jax.random.key(5), (N + PADDING, 3, 2, CHANNELS)) * 2 + 1
    if real is not None:
        x = jnp.where(real[:, None, None, None], x, 1e30)
    mine = np.ones(N + PADDING, bool) if real is None else np.asarray(real)
    factors = jnp.concatenate([weights, weights[:PADDING] + 1])

    def on_devices(x, variables):
        shards = x.reshape(3, 3, *x.shape[1:])
        masks = None if real is None else real.reshape(3, 3)

        def device(x, mask):
            return train(variables, x, mask, "devices")

        y, moved = jax.vmap(device, in_axes=(0, None if real is None else 0), axis_name="devices")(shards, masks)
        return y.reshape(x.shape), moved

    y, moved = on_devices(x, variables)
    expected, expected_moved = by_hand(variables, x[mine])
    assert_close(y[mine], expected)
    for name in ("mean", "var"):
        assert_close(moved[name], np.broadcast_to(expected_moved[name], (3, CHANNELS)))

    def loss(x, params, apply, chosen):
        y, _ = apply(x, {**variables, "params": params})
        return (factors[mine] * jnp.square(y[chosen])).sum()

    gradient = jax.grad(loss, argnums=(0, 1))
    found_x, found_params = gradient(x, variables["params"], on_devices, mine)
    everything = np.ones(mine.sum(), bool)
    expected = gradient(x[mine], variables["params"], lambda x, v: train(v, x), everything)
    assert_close((found_x[mine], found_params), expected)
    assert (found_x[~mine] == 0).all()
