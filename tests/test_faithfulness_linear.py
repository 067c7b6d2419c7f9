"""Every metric on a linear classifier, where the right answer is known on paper, and against plain NumPy."""

import explained
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explained import SHAPE, K, N
from networks import random_classifier
from scipy import stats

from advx_jax.analysis.faithfulness import (
    ROAD,
    AverageSensitivity,
    Completeness,
    Complexity,
    Deletion,
    FaithfulnessCorrelation,
    Infidelity,
    Insertion,
    MaxSensitivity,
    ParameterRandomisation,
    PixelFlipping,
    RandomLogit,
    ROADLeastFirst,
    Sparseness,
)
from advx_jax.analysis.faithfulness.baselines import baseline_images
from advx_jax.analysis.faithfulness.imputation import imputed
from advx_jax.analysis.faithfulness.rank_correlation import ranks, similarity
from advx_jax.analysis.faithfulness.units import Units
from advx_jax.attacks import example_keys
from advx_jax.errors import UserError
from advx_jax.networks.programs import programs_in

CASE = explained.linear_case()
MODEL, IMAGES, TARGETS = CASE.model, CASE.images, CASE.targets
# As pure functions take them.
PIXELS, CLASSES = jnp.asarray(IMAGES), jnp.asarray(TARGETS)
KEYS = example_keys(jax.random.key(5), jnp.arange(N))
RNG = np.random.default_rng(1)
OTHER = RNG.normal(size=(N, *SHAPE)).astype(np.float32)
# float32, of logits of size 10.
TOLERANCE = 1e-4


def unit_of_each_value(unit, side):
    """By plain loops: the number of the unit that each value of an image belongs to."""
    height, width, channels = SHAPE
    place = np.arange(height * width * channels).reshape(SHAPE)
    if unit == "value":
        return place
    across = -(-width // side)
    return np.array(
        [[[(i // side) * across + j // side] * channels for j in range(width)] for i in range(height)]
    ).reshape(SHAPE)


def removal_curves(attributions, unit, side, steps, baseline, puts_in):
    """Logits of the targets as units are replaced, in float64."""
    where = unit_of_each_value(unit, side)
    n_units = where.max() + 1
    counts = np.rint(np.linspace(0, n_units, min(steps, n_units) + 1)).astype(int)
    curves = []
    for image, other, attribution, target in zip(IMAGES, baseline, attributions, TARGETS, strict=True):
        score = [np.broadcast_to(attribution, SHAPE)[where == unit].sum() for unit in range(n_units)]
        order = np.argsort(-np.array(score), kind="stable")
        start, end = (other, image) if puts_in else (image, other)
        points = [np.where(np.isin(where, order[:count]), end, start) for count in counts]
        curves.append([(CASE.weights[target] * point).sum(dtype=np.float64) + CASE.bias[target] for point in points])
    return np.array(curves), counts / n_units


@pytest.mark.parametrize(
    ("kind", "unit", "side", "steps", "baseline"),
    [
        (Deletion, "value", 1, 1000, "black"),
        (Deletion, "pixel", 1, 7, "mean"),
        (Deletion, "patch", 2, 64, "blurred"),
        (Insertion, "value", 1, 12, "blurred"),
        (Insertion, "pixel", 1, 64, "black"),
        (Insertion, "patch", 3, 2, "mean"),
    ],
)
def test_areas_are_those_of_the_curves(kind, unit, side, steps, baseline):
    other = np.asarray(baseline_images(baseline, PIXELS))
    curves, shares = removal_curves(OTHER, unit, side, steps, other, kind is Insertion)
    metric = kind(unit=unit, patch=side, steps=steps, baseline=baseline, output="logit")
    np.testing.assert_allclose(metric.curve(MODEL, PIXELS, CLASSES, jnp.asarray(OTHER)), curves, atol=TOLERANCE)
    np.testing.assert_allclose(
        metric(MODEL, IMAGES, TARGETS, OTHER), np.trapezoid(curves, shares, axis=1), atol=TOLERANCE
    )
    assert metric.cost(MODEL, SHAPE).passes == len(shares)


def test_no_order_deletes_better_than_that_of_the_parts():
    """The logit is the sum of what is left of x·w, so taking the largest first is best at every step."""
    deletion, insertion = (kind(unit="value", output="logit", baseline="black") for kind in (Deletion, Insertion))
    best = [np.asarray(metric(MODEL, IMAGES, TARGETS, CASE.parts)) for metric in (deletion, insertion)]
    for seed in range(3):
        order = np.random.default_rng(seed).normal(size=(N, *SHAPE)).astype(np.float32)
        assert (best[0] < deletion(MODEL, IMAGES, TARGETS, order)).all()
        assert (best[1] > insertion(MODEL, IMAGES, TARGETS, order)).all()
    # What is put into black is what is left of the opposite deletion.
    np.testing.assert_allclose(best[1], deletion(MODEL, IMAGES, TARGETS, -CASE.parts), atol=TOLERANCE)


def test_probabilities_are_of_the_target():
    metric = Deletion(unit="value", steps=1)
    probabilities = [
        np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (CASE.logits(IMAGES), CASE.logits(0 * IMAGES))
    ]
    wanted = np.mean([p[np.arange(N), TARGETS] for p in probabilities], axis=0)
    np.testing.assert_allclose(metric(MODEL, IMAGES, TARGETS, CASE.parts), wanted, rtol=1e-4)


def test_pixel_flipping_adds_up_the_parts_that_are_gone():
    fallen = np.cumsum(-np.sort(-CASE.parts.reshape(N, -1).astype(np.float64)), axis=1)
    wanted = fallen.sum(1) / (fallen.shape[1] + 1)
    found = PixelFlipping(unit="value", steps=10**6)(MODEL, IMAGES, TARGETS, CASE.parts)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_equal_attributions_go_in_the_order_of_the_image():
    metric = Deletion(unit="pixel", steps=3, output="logit")
    curves, _ = removal_curves(0 * OTHER, "pixel", 1, 3, 0 * IMAGES, False)
    found = metric.curve(MODEL, PIXELS, CLASSES, jnp.zeros_like(OTHER))
    np.testing.assert_allclose(found, curves, atol=TOLERANCE)


def dense(image, removed):
    """Imputation by the equations of all pixels at once."""
    height, width, channels = image.shape
    matrix, right = np.eye(height * width), image.reshape(-1, channels).astype(np.float64).copy()
    for i in range(height):
        for j in range(width):
            if removed[i, j]:
                row, total = np.zeros(height * width), 0.0
                for down in (-1, 0, 1):
                    for across in (-1, 0, 1):
                        if (down or across) and 0 <= i + down < height and 0 <= j + across < width:
                            weight = 1 / 12 if down and across else 1 / 6
                            row[(i + down) * width + j + across] = -weight
                            total += weight
                row[i * width + j] = total
                matrix[i * width + j], right[i * width + j] = row, 0
    return np.linalg.solve(matrix, right).reshape(image.shape)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_imputed_pixels_solve_the_equations(share):
    images = RNG.uniform(size=(3, 9, 12, 3)).astype(np.float32)
    removed = RNG.uniform(size=(3, 9, 12, 1)) < share
    found = np.asarray(imputed(jnp.asarray(images), jnp.asarray(removed)))
    for image, hole, one in zip(images, removed, found, strict=True):
        np.testing.assert_allclose(one, dense(image, hole[..., 0]), atol=2e-5)
    np.testing.assert_array_equal(np.where(removed, 0, found), np.where(removed, 0, images))


def test_imputation_keeps_one_colour_and_goes_on_with_a_ramp():
    hole = np.zeros((1, 8, 8, 1), bool)
    hole[:, 2:6, 3:5] = True
    ramp = np.broadcast_to(np.linspace(0, 1, 8, dtype=np.float32)[None, None, :, None], (1, 8, 8, 1))
    for image in (np.full((1, 8, 8, 1), 0.3, np.float32), ramp):
        np.testing.assert_allclose(imputed(jnp.asarray(image), jnp.asarray(hole)), image, atol=1e-5)


@pytest.mark.parametrize("kind", [ROAD, ROADLeastFirst])
def test_road_is_the_share_of_hits(kind):
    metric = kind(fractions=(0.2, 0.5, 0.9), noise=0.3)
    sign = 1 if kind is ROAD else -1
    wanted = np.zeros(N)
    for index, count in enumerate((6, 15, 27)):
        noise = np.asarray(metric.drawn(KEYS, index, PIXELS))
        for n in range(N):
            order = np.argsort(-sign * CASE.parts[n].sum(-1).ravel(), kind="stable")
            removed = np.isin(np.arange(30), order[:count]).reshape(SHAPE[:2])
            filled = dense(IMAGES[n], removed) + removed[..., None] * noise[n]
            wanted[n] += (CASE.logits(filled[None]).argmax() == TARGETS[n]) / 3
    assert 0 < wanted.mean() < 1
    np.testing.assert_allclose(metric(MODEL, IMAGES, TARGETS, CASE.parts, KEYS), wanted, rtol=1e-6)


@pytest.mark.parametrize("unit", ["value", "pixel", "patch"])
def test_parts_of_the_logit_correlate_with_its_falls_perfectly(unit):
    metric = FaithfulnessCorrelation(n_subsets=20, unit=unit, patch=2)
    for factor in (1, 7, -1):
        found = metric(MODEL, IMAGES, TARGETS, factor * CASE.parts, KEYS)
        np.testing.assert_allclose(found, np.sign(factor), atol=1e-5)


def test_faithfulness_correlation_is_pearsons_over_the_subsets():
    metric = FaithfulnessCorrelation(n_subsets=9, subset=0.3, unit="value", baseline="mean")
    mean = IMAGES.mean((1, 2), keepdims=True)
    sums, falls = [], []
    for index in range(9):
        chosen = np.asarray(metric.drawn(KEYS, index, Units("value", 1, SHAPE))).reshape(N, *SHAPE)
        np.testing.assert_array_equal(chosen.sum((1, 2, 3)), 27)
        sums.append((OTHER * chosen).sum((1, 2, 3)))
        falls.append(CASE.target_logits(IMAGES) - CASE.target_logits(np.where(chosen, mean, IMAGES)))
    wanted = [stats.pearsonr(*pair)[0] for pair in zip(np.transpose(sums), np.transpose(falls), strict=True)]
    np.testing.assert_allclose(metric(MODEL, IMAGES, TARGETS, OTHER, KEYS), wanted, atol=1e-4)


def test_an_attribution_that_says_nothing_has_no_correlation():
    assert np.isnan(FaithfulnessCorrelation(n_subsets=5)(MODEL, IMAGES, TARGETS, 0 * OTHER)).all()


def test_slopes_are_not_unfaithful():
    for metric in (Infidelity(n_samples=10), Infidelity(n_samples=10, perturbation="square", side=2)):
        np.testing.assert_allclose(metric(MODEL, IMAGES, TARGETS, CASE.slopes), 0, atol=1e-8)
    parts = Infidelity(n_samples=10, perturbation="square", contributions=True)
    np.testing.assert_allclose(parts(MODEL, IMAGES, TARGETS, CASE.parts), 0, atol=1e-8)
    scaled = Infidelity(n_samples=10, scaled=True)
    np.testing.assert_allclose(scaled(MODEL, IMAGES, TARGETS, -3 * CASE.slopes), 0, atol=1e-8)


def test_infidelity_of_a_wrong_slope_is_the_noises_variance_along_it():
    """E(Iᵀ(w + u) - Iᵀw)² = σ²‖u‖² for Gaussian I; and of the draws themselves, the formula."""
    metric = Infidelity(n_samples=4000, sigma=0.1)
    wrong = 0.1 * OTHER
    found = np.asarray(metric(MODEL, IMAGES, TARGETS, CASE.slopes + wrong, KEYS))
    np.testing.assert_allclose(found, 0.01 * (wrong**2).sum((1, 2, 3)), rtol=0.1)
    few = metric.with_settings(n_samples=3)
    draws = [np.asarray(few.drawn(KEYS, index, PIXELS)) for index in range(3)]
    wanted = np.mean([(draw * wrong).sum((1, 2, 3)) ** 2 for draw in draws], axis=0)
    np.testing.assert_allclose(few(MODEL, IMAGES, TARGETS, CASE.slopes + wrong, KEYS), wanted, rtol=1e-3)


def test_squares_lie_in_the_image_and_are_replaced_by_the_baseline():
    metric = Infidelity(n_samples=40, perturbation="square", side=3, baseline="mean")
    difference = IMAGES - IMAGES.mean((1, 2), keepdims=True)
    squares = [np.asarray(metric.drawn(KEYS, index, PIXELS)) for index in range(40)]
    assert all((square.sum((1, 2, 3)) == 27).all() for square in squares)
    # All of the 4 × 3 places come up.
    assert len({tuple(np.argwhere(one)[0]) for square in squares for one in square}) == 12
    wanted = np.mean([(square * difference * OTHER).sum((1, 2, 3)) ** 2 for square in squares], axis=0)
    found = metric(MODEL, IMAGES, TARGETS, CASE.slopes + OTHER, KEYS)
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_complexity_and_sparseness_of_one_value_and_of_equal_ones():
    size = int(np.prod(SHAPE))
    one, equal = np.zeros((N, size), np.float32), np.full((N, size), -1e-30, np.float32)
    one[:, 7] = -2
    one, equal = one.reshape(N, *SHAPE), equal.reshape(N, *SHAPE)
    for metric, of_one, of_equal in ((Complexity(), 0, np.log(size)), (Sparseness(), 1 - 1 / size, 0)):
        np.testing.assert_allclose(metric(MODEL, IMAGES, TARGETS, one), of_one, atol=1e-6)
        np.testing.assert_allclose(metric(MODEL, IMAGES, TARGETS, equal), of_equal, atol=1e-5)
        assert np.isnan(metric(MODEL, IMAGES, TARGETS, 0 * one)).all()


def test_complexity_and_sparseness_are_entropy_and_gini_index():
    flat = np.abs(OTHER.reshape(N, -1)).astype(np.float64)
    entropy = stats.entropy(flat, axis=1)
    gini = np.abs(flat[:, :, None] - flat[:, None]).mean((1, 2)) / (2 * flat.mean(1))
    np.testing.assert_allclose(Complexity()(MODEL, IMAGES, TARGETS, OTHER), entropy, rtol=1e-5)
    np.testing.assert_allclose(Sparseness()(MODEL, IMAGES, TARGETS, OTHER), gini, rtol=1e-5)


def test_parts_are_complete():
    np.testing.assert_allclose(Completeness()(MODEL, IMAGES, TARGETS, CASE.parts), 0, atol=1e-4)
    np.testing.assert_allclose(Completeness()(MODEL, IMAGES, TARGETS, 1.5 * CASE.parts), 0.5, atol=1e-3)
    gap = Completeness(relative=False, baseline="mean")(MODEL, IMAGES, TARGETS, CASE.parts)
    mean = np.broadcast_to(IMAGES.mean((1, 2), keepdims=True), IMAGES.shape)
    np.testing.assert_allclose(gap, np.abs((CASE.slopes * mean).sum((1, 2, 3))), rtol=1e-3)


def test_a_constant_gradient_is_not_sensitive_and_its_product_with_the_image_as_much_as_the_image():
    largest, average = MaxSensitivity(n_samples=4, radius=0.1), AverageSensitivity(n_samples=4, radius=0.1)
    for metric in (largest, average):
        np.testing.assert_array_equal(metric(MODEL, IMAGES, TARGETS, explained.gradient), 0)
    draws = [np.asarray(largest.drawn(KEYS, index, PIXELS)) for index in range(4)]
    assert all((np.abs(draw) <= 0.1).all() for draw in draws)

    def norm(v):
        return np.sqrt((v.astype(np.float64) ** 2).sum((1, 2, 3)))

    changes = [norm(draw * CASE.slopes) / norm(CASE.parts) for draw in draws]
    arguments = MODEL, IMAGES, TARGETS, explained.gradient_times_image, KEYS
    np.testing.assert_allclose(largest(*arguments), np.max(changes, axis=0), rtol=1e-4)
    np.testing.assert_allclose(average(*arguments), np.mean(changes, axis=0), rtol=1e-4)


def test_a_method_that_draws_is_compared_under_the_same_draws():
    def noise(model, images, targets, key):
        return jax.vmap(lambda one: jax.random.normal(one, images.shape[1:]))(key)

    np.testing.assert_array_equal(MaxSensitivity(n_samples=2)(MODEL, IMAGES, TARGETS, noise, KEYS), 0)


@pytest.mark.parametrize("kind", ["spearman", "pearson", "cosine"])
def test_random_logit_compares_the_slopes_of_two_classes(kind):
    metric = RandomLogit(similarity=kind)
    others = np.asarray(metric.drawn(KEYS, CLASSES, K))
    assert (others != TARGETS).all()
    assert ((others >= 0) & (others < K)).all()
    flat = CASE.weights.reshape(K, -1)
    by_hand = {
        "spearman": lambda a, b: stats.spearmanr(a, b)[0],
        "pearson": lambda a, b: stats.pearsonr(a, b)[0],
        "cosine": lambda a, b: a @ b / np.sqrt((a @ a) * (b @ b)),
    }[kind]
    wanted = [by_hand(flat[target], flat[other]) for target, other in zip(TARGETS, others, strict=True)]
    np.testing.assert_allclose(metric(MODEL, IMAGES, TARGETS, explained.gradient, KEYS), wanted, atol=1e-5)


def test_every_other_class_is_drawn():
    keys = example_keys(jax.random.key(0), jnp.arange(200))
    drawn = np.asarray(RandomLogit().drawn(keys, jnp.ones(200, jnp.int32), 4))
    assert set(drawn.tolist()) == {0, 2, 3}


def test_ranks_share_the_mean_of_equal_values():
    rows = RNG.integers(-3, 3, (5, 40)).astype(np.float32)
    np.testing.assert_array_equal(ranks(jnp.asarray(rows)), stats.rankdata(rows, axis=1))
    other = RNG.integers(-2, 2, (5, 40)).astype(np.float32)
    wanted = [stats.spearmanr(*pair)[0] for pair in zip(rows, other, strict=True)]
    np.testing.assert_allclose(similarity("spearman", jnp.asarray(rows), jnp.asarray(other)), wanted, atol=1e-6)


def test_what_does_not_look_at_the_model_survives_its_randomisation():
    survives = ParameterRandomisation()(MODEL, IMAGES, TARGETS, lambda model, images, targets, key: images)
    np.testing.assert_allclose(survives, 1, atol=1e-6)


def test_arrays_of_one_size_are_shuffled_in_one_sort_each_in_the_order_of_its_key():
    arrays = [jnp.arange(6.0).reshape(shape) for shape in ((2, 3), (6,), (6,), (3, 2))]
    model, metric = jax.tree_util.Partial(lambda arrays, images: images, arrays), ParameterRandomisation(seed=3)
    for key, array, found in zip(
        jax.random.split(jax.random.key(3), 4), arrays, metric.randomised(model, 4).args[0], strict=True
    ):
        np.testing.assert_array_equal(found, jax.random.permutation(key, array.ravel()).reshape(array.shape))

    def sorts(program):
        return sum(
            (step.primitive.name == "sort") + sum(sorts(inner.jaxpr) for inner in programs_in(step))
            for step in program.eqns
        )

    assert sorts(jax.make_jaxpr(lambda model: metric.randomised(model, 1))(model).jaxpr) == 1


def test_randomised_slopes_are_the_same_values_in_another_order():
    metric = ParameterRandomisation(similarity="pearson", absolute=False)
    shuffled = metric.randomised(MODEL, 1).args[0][0]
    np.testing.assert_array_equal(np.sort(np.ravel(shuffled)), np.sort(np.ravel(CASE.weights)))
    # Weights and biases are arrays of a list and so two modules; the gradient looks at the weights, the first of them.
    after_both = np.asarray(metric.randomised(MODEL, 2).args[0][0])[TARGETS].reshape(N, -1)
    r = [stats.pearsonr(*pair)[0] for pair in zip(CASE.slopes.reshape(N, -1), after_both, strict=True)]
    found = metric(MODEL, IMAGES, TARGETS, explained.gradient)
    np.testing.assert_allclose(found, (1 + np.array(r)) / 2, atol=1e-5)


@pytest.mark.slow
def test_a_network_loses_its_modules_from_the_head_on():
    classifier = random_classifier()
    metric = ParameterRandomisation()
    order = ["head", "head_bn", "stage2_block1", "stage1_block1", "stem"]
    before = jax.tree_util.tree_leaves_with_path(classifier)
    for count in range(len(order) + 1):
        moved = {
            path[2].key if len(path) > 2 else None
            for (path, old), new in zip(before, jax.tree.leaves(metric.randomised(classifier, count)), strict=True)
            if (old != new).any()
        }
        assert moved == set(order[:count])
    assert metric.cost(classifier, (8, 8, 3)).attributions == 6
    images = RNG.uniform(size=(2, 8, 8, 3)).astype(np.float32)
    found = metric(classifier, images, [0, 1], explained.gradient)
    assert (np.abs(found) < 0.9).all()


def test_modules_can_be_named_and_a_model_without_numbers_is_refused():
    classifier = random_classifier()
    metric = ParameterRandomisation(modules=("stem", "head"))
    before, after = (jax.tree.leaves(one) for one in (classifier, metric.randomised(classifier, 2)))
    assert sum(bool((old != new).any()) for old, new in zip(before, after, strict=True)) == 3
    images = RNG.uniform(size=(2, 8, 8, 3)).astype(np.float32)
    with pytest.raises(UserError, match=r"^expected a model whose numbers are leaves of a pytree .* got none in tail$"):
        ParameterRandomisation(modules=("tail",))(classifier, images, [0, 1], explained.gradient)
    with pytest.raises(UserError, match=r"^expected a model whose numbers are leaves of a pytree .* got none$"):
        ParameterRandomisation()(lambda x: MODEL(x), IMAGES, TARGETS, explained.gradient)


def test_spatial_attributions_have_no_values():
    with pytest.raises(UserError, match=r"^expected attributions of shape \(4, 6, 5, 3\) for units of single values"):
        Deletion(unit="value")(MODEL, IMAGES, TARGETS, OTHER.sum(-1))
