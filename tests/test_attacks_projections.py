"""Balls, the box of valid images, and the norms that go with them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from advx_jax.attacks.norms import rms
from advx_jax.attacks.projections import (
    NORMS,
    clip_to_box,
    dual_size,
    l0_norm,
    l1_norm,
    l2_norm,
    linf_norm,
    project,
    project_l0,
    project_l1,
    project_l2,
    project_linf,
    prox,
    room_in_box,
    size,
)

# float32: the same sums in another order.
ROUNDING = 1e-6
RADII = [0.7, jnp.array([0.1, 0.7, 50.0, 0.0, 2.0])]


@pytest.fixture
def delta():
    return (
        jax.random.normal(jax.random.key(0), (5, 4, 4, 3)) * jnp.array([1.0, 0.01, 3.0, 1.0, 0.0])[:, None, None, None]
    )


def test_norms_are_the_plain_ones(delta):
    rows = np.asarray(delta).reshape(5, -1)
    np.testing.assert_allclose(l2_norm(delta), np.linalg.norm(rows, axis=1), rtol=ROUNDING)
    np.testing.assert_array_equal(linf_norm(delta), np.abs(rows).max(1))
    np.testing.assert_allclose(l2_norm(delta), rms(delta) * np.sqrt(48), rtol=ROUNDING)
    np.testing.assert_allclose(l1_norm(delta), np.abs(rows).sum(1), rtol=ROUNDING)
    np.testing.assert_array_equal(l0_norm(delta), [48, 48, 48, 48, 0])
    for norm, dual in (("L1", linf_norm), ("L2", l2_norm), ("Linf", l1_norm)):
        np.testing.assert_array_equal(dual_size(norm, delta), dual(delta))


def test_l0_counts_values_not_pixels():
    image = np.zeros((1, 4, 4, 3), np.float32)
    image[0, 1, 2] = [0.5, -0.25, 0.0]
    assert size("L0", jnp.asarray(image))[0] == 2


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_norm_of_extreme_values_neither_vanishes_nor_overflows(scale):
    np.testing.assert_allclose(l2_norm(jnp.full((2, 4), scale)), 2 * scale, rtol=ROUNDING)
    assert not jnp.isfinite(l2_norm(jnp.array([[jnp.inf, 1.0], [jnp.nan, 1.0]]))).any()


@pytest.mark.parametrize("eps", RADII, ids=["one radius", "one each"])
@pytest.mark.parametrize(("project", "norm"), [(project_l1, l1_norm), (project_l2, l2_norm), (project_linf, linf_norm)])
def test_projection_ends_on_the_ball_or_changes_nothing(project, norm, eps, delta):
    projected = project(delta, eps)
    radii = np.broadcast_to(eps, 5)
    np.testing.assert_allclose(norm(projected), np.minimum(norm(delta), radii), rtol=ROUNDING)
    inside = np.asarray(norm(delta)) <= radii
    np.testing.assert_array_equal(projected[inside], delta[inside])
    assert inside.any()
    assert not inside.all()


def test_l2_projection_keeps_the_direction(delta):
    projected = project_l2(delta, 0.5)[0]
    np.testing.assert_allclose(projected / 0.5, delta[0] / l2_norm(delta)[0], atol=ROUNDING)


def test_clip_to_box_changes_only_what_leaves_it():
    images = jnp.array([[0.25, 0.5, 0.75]])
    np.testing.assert_array_equal(clip_to_box(images, jnp.array([[-0.5, 0.25, 0.5]])), jnp.array([[-0.25, 0.25, 0.25]]))


N, D = 40, 6
RANDOM = np.random.default_rng(0)
# Of float64, over sums of a few values.
EXACT = 1e-12
# Of float32, over sums of hundreds.
SUMMED = 1e-5
# SLSQP's own precision.
SOLVED = 1e-6
# What lies so near in float64 and costs more shows that a minimum is one.
NEARBY = [*(10.0 ** -np.arange(6)), 0.0]


@pytest.fixture
def in_float64():
    with jax.enable_x64(True):
        yield


def points():
    """Images with values on the box's walls too, changes that leave it, radii inside of which some of them are."""
    images = np.clip(RANDOM.uniform(-0.3, 1.3, (N, D)), 0, 1)
    return tuple(map(jnp.asarray, (images, RANDOM.normal(size=(N, D)), RANDOM.uniform(0, 4, N))))


def nearest_in_l1_and_box(image, delta, eps):
    """By a general solver, of a change that is the difference of its positive and its negative part."""

    def change(parts):
        return parts[:D] - parts[D:]

    found = minimize(
        lambda parts: np.square(change(parts) - delta).sum(),
        np.zeros(2 * D),
        bounds=[*((0, 1 - value) for value in image), *((0, value) for value in image)],
        constraints={"type": "ineq", "fun": lambda parts: eps - parts.sum()},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return change(found.x)


def nearest_in_l0_and_box(image, delta, eps):
    """By trying all choices of values to keep."""
    inside = np.clip(delta, -image, 1 - image)
    choices = [np.isin(np.arange(D), kept) * inside for kept in itertools.combinations(range(D), min(int(eps), D))]
    return min(choices, key=lambda choice: np.square(choice - delta).sum())


@pytest.mark.parametrize(
    ("project", "norm", "nearest", "tolerance"),
    [(project_l1, "L1", nearest_in_l1_and_box, SOLVED), (project_l0, "L0", nearest_in_l0_and_box, EXACT)],
)
def test_projections_onto_ball_and_box_are_the_nearest_points(project, norm, nearest, tolerance, in_float64):
    images, deltas, radii = points()

    @jax.jit
    def into_both(deltas):
        return project(deltas, radii, room_in_box(images, deltas))

    found = into_both(deltas)
    assert found.dtype == np.float64
    assert (size(norm, found) <= radii + EXACT).all()
    assert (images + found).min() >= -EXACT
    assert (images + found).max() <= 1 + EXACT
    np.testing.assert_allclose(into_both(found), found, atol=EXACT)
    ones = zip(*map(np.asarray, (images, deltas, radii)), strict=True)
    expected = np.array([nearest(*one) for one in ones])
    np.testing.assert_allclose(found, expected, atol=tolerance)
    # Some are in both to begin with, and do not change.
    assert (found == 0).any()
    inside = (size(norm, deltas) <= radii) & ((images + deltas) == jnp.clip(images + deltas, 0, 1)).all(1)
    np.testing.assert_array_equal(found[inside], deltas[inside])
    apart = jax.vmap(lambda d, r, x: project(d[None], r, room_in_box(x[None], d[None]))[0])(deltas, radii, images)
    np.testing.assert_array_equal(apart, found)


@pytest.mark.parametrize("norm", NORMS)
def test_projections_onto_a_ball_are_the_nearest_of_many(norm, in_float64):
    _, deltas, radii = points()
    found = project(norm, deltas, radii)
    assert (size(norm, found) <= radii + EXACT).all()
    np.testing.assert_allclose(project(norm, found, radii), found, atol=EXACT)
    distance = np.linalg.norm(found - deltas, axis=1)
    for scale in NEARBY:
        other = project(norm, found + scale * RANDOM.normal(size=(N, D)), radii)
        assert (distance <= np.linalg.norm(other - deltas, axis=1) + EXACT).all()
    np.testing.assert_array_equal(project(norm, deltas, -1.0), np.zeros((N, D)))


@pytest.mark.parametrize("norm", NORMS)
def test_proximal_operators_are_the_minima_that_they_are_defined_as(norm, in_float64):
    _, deltas, weights = points()

    def cost(values):
        return weights * size(norm, values) + jnp.square(values - deltas).sum(1) / 2

    found = jax.jit(lambda deltas: prox(norm, deltas, weights))(deltas)
    for scale in NEARBY:
        step = scale * RANDOM.normal(size=(N, D))
        # Along all values, along one, and along those that are not 0 already.
        for other in (found + step, found + step * np.eye(D)[RANDOM.integers(D, size=N)], found + step * (found != 0)):
            assert (cost(found) <= cost(other) + EXACT).all()
    assert (cost(found) <= cost(jnp.zeros((N, D))) + EXACT).all()
    assert (cost(found) <= cost(deltas) + EXACT).all()
    np.testing.assert_array_equal(prox(norm, deltas, 0.0), deltas)
    assert ((found != 0).any(1) & (found != deltas).any(1)).any()


def test_projections_work_with_values_of_any_size():
    values = jnp.asarray(RANDOM.normal(size=(3, 500)) * np.array([[1e-30], [1.0], [1e30]]), jnp.float32)
    kept = project_l0(values, 7.9)
    assert (l0_norm(kept) == 7).all()
    assert (jnp.abs(kept).max(1) == jnp.abs(values).max(1)).all()
    radii = jnp.asarray([1e-29, 10, 1e31], jnp.float32)
    np.testing.assert_allclose(l1_norm(project_l1(values, radii)), radii, rtol=SUMMED)
    lost = project_l0(jnp.array([[1.0, jnp.nan, 2.0]]), 1.0)
    assert jnp.isnan(lost).any(), "what is no number does not vanish among zeros"
    # Among equal values, as many as fit, and no more.
    np.testing.assert_array_equal(project_l0(jnp.ones((1, 5)), 2.0), [[1, 1, 0, 0, 0]])
