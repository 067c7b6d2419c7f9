"""How far areas may be off for having been measured on a few images."""

import jax
import numpy as np
import pytest

from advx_jax.analysis.area_interval import area_interval
from advx_jax.analysis.robustness_area import robustness_curve
from advx_jax.errors import UserError

K = 10


def test_the_interval_is_as_wide_as_areas_of_draws_differ():
    rng = np.random.default_rng(0)

    def draw():
        return np.where(rng.random(200) < 0.3, 0, rng.exponential(0.02, 200))

    areas = [robustness_curve(draw(), K).area for _ in range(400)]
    low, high = area_interval(draw(), K)
    # Of 200 images the spread itself is known to about a tenth.
    assert (high - low) / (2 * 1.96 * np.std(areas)) == pytest.approx(1, abs=0.25)
    narrow = area_interval(draw(), K, level=0.5)
    assert narrow[1] - narrow[0] < (high - low) / 2


def test_the_interval_holds_the_area_and_depends_on_the_key_alone():
    distances = np.random.default_rng(1).exponential(0.02, 100)
    low, high = area_interval(distances, K)
    assert low < robustness_curve(distances, K).area < high
    assert area_interval(list(distances), K) == (low, high)
    assert area_interval(distances, K, jax.random.key(1)) != (low, high)
    assert area_interval(np.append(distances, np.nan), K) == (low, high)
    same = robustness_curve(np.full(5, 0.1), K).area
    assert area_interval(np.full(5, 0.1), K) == (same, same)


def test_areas_without_an_end():
    low, high = area_interval([0.1] * 90 + [np.inf] * 10, K)
    assert 0 < low < high == np.inf
    assert area_interval([np.inf] * 4, K) == (np.inf, np.inf)
    assert np.isnan(area_interval([np.nan], K)).all()


@pytest.mark.parametrize(
    ("distances", "level", "message"),
    [([0.1], 95.0, "a level above 0 and below 1, got 95"), ([-0.1], 0.95, "at least 0, got -0.1")],
)
def test_what_is_no_level_or_distance_is_refused(distances, level, message):
    with pytest.raises(UserError, match=message):
        area_interval(distances, K, level=level)
