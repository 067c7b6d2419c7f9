"""Accuracy-robustness area: of hand-made distances, of a linear classifier, and of the published networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_classifier

from advx_jax.analysis.robustness_area import (
    KINDS,
    PUBLISHED_ATTACK,
    PUBLISHED_SETTINGS,
    SEARCHES,
    Distances,
    minimum_norm_distances,
    robustness_curve,
)
from advx_jax.analysis.subset import published_permutation, published_subset
from advx_jax.attacks import minimum_norm_attack
from advx_jax.attacks.minimum_norm import Published

# Of a sum of 1000 float64 numbers.
SUM_ROUNDING = 1e-12
# The same float32 attack in another chunk.
CHUNK_TOLERANCE = 1e-4
# Issue figures: networks with a smooth activation keep to the reference, ReLU's long attacks are chaotic.
SMOOTH_AREA, CHAOTIC_AREA = 0.005, 0.05
DISTANCE_TOLERANCE, DISTANCES_WITHIN = 0.02, 28
# Mean distance that another attack has to reach, over the published attack's with 450 gradients.
REACHED = {("all", "fmn"): 0.80, ("all", "best"): 0.78, ("standard", "best"): 0.86, ("adv-train", "best"): 0.97}


def test_area_of_one_distance_for_all():
    """Accuracy 1 until the last of the 1000 bins, which holds everything."""
    curve = robustness_curve(np.full(7, 0.25))
    assert curve.area == pytest.approx(0.25 * 0.999 * 0.9, rel=SUM_ROUNDING)
    np.testing.assert_allclose(curve.accuracies[:-1], 1)
    assert curve.accuracies[-1] == 0
    assert curve.perturbations[-1] == pytest.approx(0.25, rel=SUM_ROUNDING)


def test_area_of_two_distances():
    """0.1 falls on the lower edge of bin 501 of 0.2/1000, and is counted in that bin."""
    assert robustness_curve(np.array([0.1, 0.2])).area == pytest.approx(
        0.2 / 1000 * (500 * 0.9 + 499 * 0.4), rel=SUM_ROUNDING
    )


def test_misclassified_images_lower_the_curve_from_the_start():
    curve = robustness_curve(np.array([0.0, 0.0, 0.0, 1.0]))
    np.testing.assert_allclose(curve.accuracies[:-1], 0.25)
    assert curve.area == pytest.approx(0.999 * 0.15, rel=SUM_ROUNDING)


def test_accuracy_below_chance_adds_nothing():
    assert robustness_curve(np.array([0.0] * 19 + [1.0])).area == 0
    assert robustness_curve(np.array([0.0, 1.0]), n_classes=2).area == 0


def test_area_is_zero_if_all_are_misclassified_and_undefined_without_images():
    assert robustness_curve(np.zeros(5)).area == 0
    assert np.isnan(robustness_curve(np.zeros(0)).area)


def test_subset_is_the_published_one(golden):
    np.testing.assert_array_equal(published_permutation(), golden("ara_subset_perm1776.npy"))
    np.testing.assert_array_equal(published_subset(32, 10_000), golden("images_ara_first32.npz")["indices"])


def test_subset_of_a_sample_keeps_the_published_order():
    order = published_permutation()
    assert sorted(order) == list(range(10_000))
    subset = published_subset(1000, 256)
    assert len(subset) == 256
    assert [i for i in order if i < 256] == list(subset)


def _measure(classifier, images, labels, attack, on_progress=lambda done: None, on_spared=lambda done: None):
    n = len(images)
    fields = [np.full(n, np.nan), np.full(n, -1), np.zeros(n, bool), np.zeros(n, bool)]
    for places, part in minimum_norm_distances(classifier, images, labels, attack, on_progress, on_spared):
        for field, values in zip(fields, part, strict=True):
            field[places] = values
    return Distances(*fields)


def test_distances_equal_the_attacks_whatever_the_chunk(monkeypatch):
    classifier = random_classifier()
    images = np.asarray(jax.random.uniform(jax.random.key(0), (11, 8, 8, 3)))
    labels = np.array(jax.jit(classifier)(images).argmax(-1), np.int32)
    labels[[3, 8]] = (labels[[3, 8]] + 1) % 10
    settings = PUBLISHED_SETTINGS.replace(eps=5.0, steps=60)
    progress, spared = [], []
    found = _measure(classifier, images, labels, Published(settings), progress.append, spared.append)
    expected = jax.jit(minimum_norm_attack)(classifier, jnp.asarray(images), labels, settings)
    np.testing.assert_allclose(found.distances, expected.rms, rtol=CHUNK_TOLERANCE)
    np.testing.assert_array_equal(found.first_ok, expected.first_ok)
    np.testing.assert_array_equal(found.crossed, expected.succeeded)
    assert found.measured().all()
    assert (found.distances[[3, 8]] == 0).all()
    assert sum(progress) == pytest.approx(9)
    assert sum(spared) == 2


def test_images_that_never_flip_or_are_broken_have_no_distance():
    classifier = random_classifier()
    images = np.array(jax.random.uniform(jax.random.key(0), (4, 8, 8, 3)))
    labels = np.array(jax.jit(classifier)(images).argmax(-1), np.int32)
    images[1, 0, 0, 0] = np.nan
    found = _measure(classifier, images, labels, Published(PUBLISHED_SETTINGS.replace(eps=1e-6, steps=3)))
    assert not found.measured().any()
    np.testing.assert_array_equal(found.finite, [True, False, True, True])
    np.testing.assert_array_equal(found.first_ok[found.finite], 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["all", pytest.param("standard", marks=pytest.mark.slow)])
def test_published_area(name, kind, ara_subset, golden, published_pt):
    from advx_jax.convert import read_pt

    classifier, _ = read_pt(published_pt(f"resnet44-{name}"))
    expected = golden(f"ara_{name}.npz")
    found = _measure(classifier, *ara_subset, PUBLISHED_ATTACK.until(KINDS[kind]))
    assert found.measured().all()
    np.testing.assert_array_equal(found.distances == 0, expected[kind] == 0)
    area, expected_area = robustness_curve(found.distances).area, robustness_curve(expected[kind]).area
    assert area == pytest.approx(expected_area, rel=SMOOTH_AREA if name == "all" else CHAOTIC_AREA)
    if name == "all":
        close = np.abs(found.distances - expected[kind]) <= DISTANCE_TOLERANCE * expected[kind]
        assert close.sum() >= DISTANCES_WITHIN


@pytest.mark.slow
@pytest.mark.parametrize(("name", "attack"), REACHED)
def test_other_attacks_find_smaller_distances_with_fewer_gradients(name, attack, ara_subset, golden, published_pt):
    from advx_jax.convert import read_pt

    classifier, _ = read_pt(published_pt(f"resnet44-{name}"))
    if name == "adv-train":
        published = _measure(classifier, *ara_subset, PUBLISHED_ATTACK).distances
    else:
        published = golden(f"ara_{name}.npz")["attack"]
    assert SEARCHES[attack].gradient_evaluations <= 200
    found = _measure(classifier, *ara_subset, SEARCHES[attack])
    assert found.measured().all()
    np.testing.assert_array_equal(found.distances == 0, published == 0)
    assert found.distances.sum() <= REACHED[name, attack] * published.sum()
