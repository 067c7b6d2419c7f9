"""Accuracy-robustness area: of hand-made distances, of a linear classifier, and of the published networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_classifier

from advx_jax.analysis.robustness_area import (
    KINDS,
    Distances,
    minimum_norm_distances,
    robustness_curve,
)
from advx_jax.analysis.subset import published_permutation, published_subset
from advx_jax.attacks import FMN, Published
from advx_jax.attacks.named import MINIMUM_NORM
from advx_jax.errors import UserError

# Of a sum of 1000 float64 numbers.
SUM_ROUNDING = 1e-12
# The same float32 attack in another chunk.
CHUNK_TOLERANCE = 1e-4
# Networks with a smooth activation keep to the reference, but for single images whose 450 steps part ways over 1e-7 of
# rounding: two implementations in PyTorch differ by 0.7% in the attack area. ReLU's long attacks are chaotic.
SMOOTH_AREA, CHAOTIC_AREA = {"attack": 0.01, "btr": 0.005}, 0.05
DISTANCE_TOLERANCE, DISTANCES_WITHIN = 0.02, 28
# Mean distance that another attack has to reach, over the published attack's with 450 gradients.
REACHED = {("all", "fmn"): 0.80, ("all", "best"): 0.78, ("standard", "best"): 0.86, ("adv-train", "best"): 0.97}


def test_area_of_one_distance_for_all():
    """Accuracy 1 until the last of the 1000 bins, which holds everything."""
    curve = robustness_curve(np.full(7, 0.25), 10)
    assert curve.area == pytest.approx(0.25 * 0.999 * 0.9, rel=SUM_ROUNDING)
    np.testing.assert_allclose(curve.accuracies[:-1], 1)
    assert curve.accuracies[-1] == 0
    assert curve.perturbations[-1] == pytest.approx(0.25, rel=SUM_ROUNDING)


def test_area_of_two_distances():
    """0.1 falls on the lower edge of bin 501 of 0.2/1000, and is counted in that bin."""
    assert robustness_curve(np.array([0.1, 0.2]), 10).area == pytest.approx(
        0.2 / 1000 * (500 * 0.9 + 499 * 0.4), rel=SUM_ROUNDING
    )


def test_misclassified_images_lower_the_curve_from_the_start():
    curve = robustness_curve(np.array([0.0, 0.0, 0.0, 1.0]), 10)
    np.testing.assert_allclose(curve.accuracies[:-1], 0.25)
    assert curve.area == pytest.approx(0.999 * 0.15, rel=SUM_ROUNDING)


def test_accuracy_below_chance_adds_nothing():
    assert robustness_curve(np.array([0.0] * 19 + [1.0]), 10).area == 0
    assert robustness_curve(np.array([0.0, 1.0]), n_classes=2).area == 0


def test_area_is_zero_if_all_are_misclassified_and_undefined_without_images():
    assert robustness_curve(np.zeros(5), 10).area == 0
    assert np.isnan(robustness_curve(np.zeros(0), 10).area)


def test_a_classifier_that_never_errs_has_no_end_to_its_area():
    """Not 0, which is what a classifier that always errs has."""
    curve = robustness_curve(np.full(6, np.inf), 10)
    assert curve.area == np.inf
    assert curve.at_least == 0
    assert curve.n_uncrossed == 6
    np.testing.assert_array_equal(curve.accuracies, 1)


def test_one_that_errs_at_once_or_never_has_none_either():
    curve = robustness_curve(np.array([0, 0, 0, np.inf]), 10)
    assert curve.area == np.inf
    np.testing.assert_array_equal(curve.accuracies, 0.25)


@pytest.mark.parametrize(("n_classes", "ends"), [(2, True), (4, True), (5, False)])
def test_images_never_crossed_survive_every_perturbation(n_classes, ends):
    """Of four, one is over at 0.1 (in bin 501 of 0.2/1000), two at 0.2, one never: a quarter, chance for K = 4."""
    curve = robustness_curve(np.array([0.1, 0.2, np.inf, 0.2]), n_classes)
    np.testing.assert_allclose(curve.accuracies[[0, 499, 500, 998, 999]], [1, 1, 0.75, 0.75, 0.25])
    assert curve.perturbations[-1] == pytest.approx(0.2, rel=SUM_ROUNDING)
    level = 1 / n_classes
    assert curve.at_least == pytest.approx(
        0.2 / 1000 * (500 * (1 - level) + 499 * (0.75 - level) + max(0.25 - level, 0)), rel=SUM_ROUNDING
    )
    assert curve.area == (curve.at_least if ends else np.inf)


def test_images_without_a_distance_are_left_out_and_counted():
    curve = robustness_curve(np.array([np.nan, 0.1, np.nan, 0.2]), 10)
    assert curve.n_left_out == 2
    for found, expected in zip(curve[:5], robustness_curve(np.array([0.1, 0.2]), 10)[:5], strict=True):
        np.testing.assert_array_equal(found, expected)
    assert np.isnan(robustness_curve(np.full(3, np.nan), 10).area)


@pytest.mark.parametrize(
    ("distances", "n_classes", "message"),
    [
        ([0.1, -0.1], 10, "expected distances of at least 0, got -0.1"),
        ([0.1, -np.inf], 10, "expected distances of at least 0, got -inf"),
        ([[0.1]], 10, r"expected a distance for each image, of shape \(n,\), got shape \(1, 1\)"),
        ([0.1], 1, "expected at least 2 classes, got 1"),
        ([0.1], 0, "expected at least 2 classes, got 0"),
    ],
)
def test_distances_and_classes_that_are_none_are_refused(distances, n_classes, message):
    with pytest.raises(UserError, match=message):
        robustness_curve(np.array(distances), n_classes)


def test_lists_and_numpy_numbers_are_taken():
    assert robustness_curve([0.1, 0.2], np.int64(10)).area == robustness_curve(np.array([0.1, 0.2]), 10).area


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
    for places, part in minimum_norm_distances(classifier, images, labels, attack, None, on_progress, on_spared):
        for field, values in zip(fields, part, strict=True):
            field[places] = values
    return Distances(*fields)


def test_distances_equal_the_attacks_whatever_the_chunk(monkeypatch):
    classifier = random_classifier()
    images = np.asarray(jax.random.uniform(jax.random.key(0), (11, 8, 8, 3)))
    labels = np.array(jax.jit(classifier)(images).argmax(-1), np.int32)
    labels[[3, 8]] = (labels[[3, 8]] + 1) % 10
    attack = Published(eps=5.0, steps=60)
    progress, spared = [], []
    found = _measure(classifier, images, labels, attack, progress.append, spared.append)
    expected = attack(classifier, images, labels)
    np.testing.assert_allclose(found.distances, expected.rms, rtol=CHUNK_TOLERANCE)
    np.testing.assert_array_equal(found.first_ok, expected.first_success)
    np.testing.assert_array_equal(found.crossed, expected.success)
    assert found.measured().all()
    assert (found.distances[[3, 8]] == 0).all()
    assert sum(progress) == pytest.approx(9)
    assert sum(spared) == 2


def test_images_that_never_flip_or_are_broken_have_no_distance():
    classifier = random_classifier()
    images = np.array(jax.random.uniform(jax.random.key(0), (4, 8, 8, 3)))
    labels = np.array(jax.jit(classifier)(images).argmax(-1), np.int32)
    labels[3] = (labels[3] + 1) % 10
    images[1, 0, 0, 0] = 1

    def breaks(images):
        # As a network does where it divides by what is 0 there.
        return classifier(images) / (images[:, 0, 0, :1] < 1)

    found = _measure(breaks, images, labels, Published(eps=1e-6, steps=3))
    np.testing.assert_array_equal(found.distances, [np.inf, np.nan, np.inf, 0])
    np.testing.assert_array_equal(found.measured(), [False, False, False, True])
    np.testing.assert_array_equal(found.finite, [True, False, True, True])
    np.testing.assert_array_equal(found.crossed, [False, False, False, True])
    np.testing.assert_array_equal(found.first_ok, [3, 3, 3, 0])


def test_masked_classes_change_no_distance():
    """By -inf, as is usual where a network has more logits than the data have classes."""
    classifier = random_classifier()
    images = np.array(jax.random.uniform(jax.random.key(0), (4, 8, 8, 3)))
    labels = np.array(jax.jit(classifier)(images).argmax(-1), np.int32)
    labels[0] = (labels[0] + 1) % 10

    def masked(images):
        return jnp.pad(classifier(images), ((0, 0), (0, 2)), constant_values=-jnp.inf)

    plain, found = (_measure(model, images, labels, FMN(steps=10)) for model in (classifier, masked))
    assert plain.measured().all()
    np.testing.assert_allclose(found.distances, plain.distances, rtol=CHUNK_TOLERANCE)


def test_a_network_that_never_errs_is_not_called_fragile():
    """By what the README shows: distances as they come, concatenated."""
    searched = minimum_norm_distances(
        lambda images: jnp.ones((len(images), 4)) * jnp.array([1.0, 0, 0, 0]) + 0 * images.sum((1, 2, 3))[:, None],
        np.full((5, 4, 4, 3), 0.5, np.float32),
        np.zeros(5, np.int32),
        FMN(steps=3),
    )
    curve = robustness_curve(np.concatenate([part.distances for _, part in searched]), n_classes=4)
    assert curve.area == np.inf
    assert curve.n_uncrossed == 5


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in ("all", "standard") for kind in KINDS])
def test_published_area(name, kind, ara_subset, golden, published_pt):
    from advx_jax.convert import read_pt

    classifier, _ = read_pt(published_pt(f"resnet44-{name}"))
    expected = golden(f"ara_{name}.npz")
    found = _measure(classifier, *ara_subset, Published().until(KINDS[kind]))
    assert found.measured().all()
    np.testing.assert_array_equal(found.distances == 0, expected[kind] == 0)
    area, expected_area = robustness_curve(found.distances, 10).area, robustness_curve(expected[kind], 10).area
    assert area == pytest.approx(expected_area, rel=SMOOTH_AREA[kind] if name == "all" else CHAOTIC_AREA)
    if name == "all":
        close = np.abs(found.distances - expected[kind]) <= DISTANCE_TOLERANCE * expected[kind]
        assert close.sum() >= DISTANCES_WITHIN


@pytest.mark.slow
@pytest.mark.parametrize(("name", "attack"), REACHED)
def test_other_attacks_find_smaller_distances_with_fewer_gradients(name, attack, ara_subset, golden, published_pt):
    from advx_jax.convert import read_pt

    classifier, _ = read_pt(published_pt(f"resnet44-{name}"))
    if name == "adv-train":
        published = _measure(classifier, *ara_subset, Published()).distances
    else:
        published = golden(f"ara_{name}.npz")["attack"]
    assert MINIMUM_NORM[attack].evaluations <= 200
    found = _measure(classifier, *ara_subset, MINIMUM_NORM[attack])
    assert found.measured().all()
    np.testing.assert_array_equal(found.distances == 0, published == 0)
    assert found.distances.sum() <= REACHED[name, attack] * published.sum()
