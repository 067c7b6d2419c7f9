"""Intervals of means, and the quality of counterfactuals."""

import explained
import jax
import numpy as np
import pytest
from explained import SHAPE, N

from advx_jax.analysis.faithfulness import bootstrap_interval, counterfactual_quality
from advx_jax.errors import UserError

CASE = explained.linear_case()


def test_the_interval_of_many_values_is_the_normal_one():
    values = np.random.default_rng(0).normal(1000, 3, 400)
    found = bootstrap_interval(values, jax.random.key(1))
    half = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert found.n == 400
    assert found == bootstrap_interval(values, jax.random.key(1))
    narrow = bootstrap_interval(values, jax.random.key(1), level=0.5)
    assert found.low < narrow.low < narrow.high < found.high


def test_values_that_are_none_do_not_count():
    assert bootstrap_interval([np.nan, 2.0, 2.0]) == (2.0, 2.0, 2.0, 2)
    nothing = bootstrap_interval([np.nan])
    assert nothing.n == 0
    assert np.isnan(nothing[:3]).all()
    assert bootstrap_interval([1.0, np.inf]) == (np.inf, 1.0, np.inf, 2)


@pytest.mark.parametrize(
    ("values", "level", "message"),
    [
        (np.ones((2, 2)), 0.95, r"of shape \(n,\), got shape \(2, 2\)"),
        ([1.0], 95.0, "a level above 0 and below 1, got 95.0"),
    ],
)
def test_what_is_no_list_or_level_is_refused(values, level, message):
    with pytest.raises(UserError, match=message):
        bootstrap_interval(values, level=level)


def test_counterfactuals_are_judged_by_their_change_and_its_effect():
    change = np.zeros((N, *SHAPE), np.float32)
    change[:, 0, 0, 0], change[:, 1, 1, 1], change[:, 2, 2, 2] = 0.3, -0.4, 1e-4
    found = counterfactual_quality(CASE.model, CASE.images, CASE.images + change, CASE.targets)
    for field, wanted in {"l1": 0.7001, "l2": 0.5, "linf": 0.4, "rms": 0.5 / 90**0.5, "sparsity": 88 / 90}.items():
        np.testing.assert_allclose(getattr(found, field), wanted, rtol=1e-4)
    before, after = (CASE.logits(images) for images in (CASE.images, CASE.images + change))
    probabilities = [np.exp(z)[np.arange(N), CASE.targets] / np.exp(z).sum(1) for z in (before, after)]
    np.testing.assert_array_equal(found.valid, after.argmax(1) == CASE.targets)
    np.testing.assert_allclose(found.confidence, probabilities[1], rtol=1e-3)
    np.testing.assert_allclose(found.gained, probabilities[1] - probabilities[0], atol=1e-5)


def test_an_explanation_that_is_no_number_reaches_nothing():
    broken = np.where(np.arange(N)[:, None, None, None] == 1, np.nan, CASE.images).astype(np.float32)
    # Class 0, which argmax names where all are NaN.
    found = counterfactual_quality(CASE.model, CASE.images, broken, np.zeros(N, np.int32))
    expected = CASE.logits(CASE.images).argmax(1) == 0
    np.testing.assert_array_equal(found.valid, expected & (np.arange(N) != 1))


def test_explanations_have_to_be_of_the_images():
    with pytest.raises(UserError, match=r"^expected explanations of the images' shape \(4, 6, 5, 3\), got"):
        counterfactual_quality(CASE.model, CASE.images, CASE.images[..., 0], CASE.targets)
