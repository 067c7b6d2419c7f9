"""Balls, the box of valid images, and the norms that go with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advx_jax.attacks.norms import rms
from advx_jax.attacks.projections import clip_to_box, l2_norm, linf_norm, project_l2, project_linf

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


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_norm_of_extreme_values_neither_vanishes_nor_overflows(scale):
    np.testing.assert_allclose(l2_norm(jnp.full((2, 4), scale)), 2 * scale, rtol=ROUNDING)
    assert not jnp.isfinite(l2_norm(jnp.array([[jnp.inf, 1.0], [jnp.nan, 1.0]]))).any()


@pytest.mark.parametrize("eps", RADII, ids=["one radius", "one each"])
@pytest.mark.parametrize(("project", "norm"), [(project_l2, l2_norm), (project_linf, linf_norm)])
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
