"""AttackBench's measures, where they can be worked out on paper."""

import math

import numpy as np
import pytest

from advx_jax.analysis.optimality import (
    area_under_curve,
    global_optimality,
    local_optimality,
    lower_envelope,
    passes_to_envelope,
)

INF = math.inf
# One image of four is misclassified to begin with.
BEST = np.array([0.0, 1.0, 2.0, 4.0])


def test_the_envelope_has_the_smallest_distance_of_each_image():
    np.testing.assert_array_equal(lower_envelope([np.array([1.0, INF, 3.0]), np.array([2.0, 2.0, INF])]), [1, 2, 3])


def test_areas_are_sums_of_rectangles():
    # 3/4 up to 1, 1/2 up to 2, 1/4 up to 4.
    assert area_under_curve(BEST, 4.0) == pytest.approx(0.75 + 0.5 + 2 * 0.25)
    assert area_under_curve(np.array([0.0, INF, INF, INF]), 4.0) == 3.0


@pytest.mark.parametrize(
    ("distances", "optimality"),
    [
        (BEST, 1.0),
        # An attack that finds nothing leaves ρ(0)·ε₀ = 3.
        (np.array([0.0, INF, INF, INF]), 0.0),
        # What it leaves is 2 of 3, where the best leaves 7/4.
        (np.array([0.0, 1.0, 3.0, 5.0]), 1 / 1.25),
    ],
)
def test_local_optimality_is_the_part_of_the_area_that_is_taken(distances, optimality):
    assert local_optimality(distances, BEST) == pytest.approx(optimality)


def test_where_the_envelope_has_no_end_its_largest_finite_distance_is_one():
    envelope = np.array([1.0, 2.0, INF])
    assert local_optimality(envelope, envelope) == 1
    assert local_optimality(np.array([2.0, 2.0, INF]), envelope) == 0
    for nothing_to_find in ([0.0, 0.0], [INF, INF]):
        assert math.isnan(local_optimality(np.array(nothing_to_find), np.array(nothing_to_find)))


def test_global_optimality_is_the_mean_over_networks():
    assert global_optimality([0.5, 1.0]) == 0.75
    assert math.isnan(global_optimality([]))


def test_passes_to_the_envelope():
    looks = np.array([[0.0, 0.0, 0.0], [4.0, 1.01, 1.0], [INF, 2.0, 2.0], [INF, 4.0, 4.0]])
    assert passes_to_envelope([10, 20, 30], looks, BEST) == 20
    assert passes_to_envelope([10, 20, 30], looks, BEST, within=0.0) == 30
    assert passes_to_envelope([10], looks[:, :1], BEST) is None
