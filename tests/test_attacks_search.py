"""Minimum-norm attacks on classifiers so small that the answers are known."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_classifier

from advx_jax.attacks import AttackSettings
from advx_jax.attacks.best import BEST
from advx_jax.attacks.chain import minimise_norm, smaller_success
from advx_jax.attacks.criteria import UNTIL_MISCLASSIFIED, UNTIL_RANDOM, UNTIL_TARGET
from advx_jax.attacks.ddn import DDN
from advx_jax.attacks.fmn import FMN
from advx_jax.attacks.minimum_norm import Published
from advx_jax.attacks.projections import l2_norm, linf_norm
from advx_jax.attacks.search import SearchResult
from advx_jax.errors import UserError

SHAPE = (4, 4, 3)
N_CLASSES = 5
SEARCHES = {"ddn": DDN(steps=60), "fmn": FMN(steps=60), "fmn linf": FMN(steps=60, norm="Linf")}
ATTACKS = SEARCHES | {"best": BEST.revised(60, True)}
CRITERIA = {"misclassified": UNTIL_MISCLASSIFIED, "random": UNTIL_RANDOM, "target": UNTIL_TARGET}

# The same float32 arithmetic in another order; near a success, another order may decide otherwise for a few steps.
ROUNDING, DECISIONS = 1e-5, 0.02
# Found distances against the exact ones of a linear classifier.
COARSENESS = 0.02

compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def linear():
    """A linear map of the pixels, its weights, images that it classifies right, and their labels."""
    weights = 4 * jax.random.normal(jax.random.key(0), (int(np.prod(SHAPE)), N_CLASSES))

    def logits_fn(images):
        return (images - 0.5).reshape(images.shape[0], -1) @ weights

    images = jax.random.uniform(jax.random.key(1), (16, *SHAPE))
    return logits_fn, weights, images, logits_fn(images).argmax(-1).astype(jnp.int32)


@pytest.fixture(scope="module")
def convolutional():
    classifier = random_classifier()
    images = jax.random.uniform(jax.random.key(0), (6, 8, 8, 3))
    return classifier, images, jax.jit(classifier)(images).argmax(-1).astype(jnp.int32)


@compiled
def run(attack, logits_fn, images, labels):
    return minimise_norm(attack, logits_fn, images, labels)


def run_linear(attack, linear, labels=None):
    logits_fn, _, images, own = linear
    return run(attack, jax.tree_util.Partial(logits_fn), images, own if labels is None else labels)


def exact_distances(linear, dual):
    logits_fn, weights, images, labels = linear
    logits = logits_fn(images)
    margins = logits[jnp.arange(16), labels][:, None] - logits
    slopes = dual(weights[:, labels].T[:, :, None] - weights[None], axis=1)
    return np.asarray(jnp.where(slopes > 0, margins / jnp.where(slopes > 0, slopes, 1), jnp.inf).min(-1))


@pytest.mark.parametrize(
    ("attack", "criterion"), [*itertools.product(SEARCHES, CRITERIA), ("best", "misclassified"), ("best", "random")]
)
def test_result_is_a_success_in_the_box_when_looked_at_again(attack, criterion, convolutional):
    classifier, images, labels = convolutional
    until = CRITERIA[criterion]
    if criterion == "target":
        # The second class of every image: every one of them can be reached.
        labels = jnp.argsort(jax.jit(classifier)(images), axis=-1)[:, -2].astype(jnp.int32)
    search = ATTACKS[attack].until(until)
    result = run(search, classifier, images, labels)
    assert result.succeeded.all()
    assert result.finite.all()
    reached = images + result.perturbation
    assert until.success(jax.jit(classifier)(reached), labels).all()
    # x + (clip(x + δ) - x) may round by one unit in the last place.
    assert -1e-6 <= float(reached.min()) <= float(reached.max()) <= 1 + 1e-6
    norm = linf_norm if attack == "fmn linf" else l2_norm
    np.testing.assert_allclose(result.norm, norm(result.perturbation), rtol=ROUNDING)
    np.testing.assert_allclose(result.rms, l2_norm(result.perturbation) / np.sqrt(8 * 8 * 3), rtol=ROUNDING)
    assert (result.norm > 0).all()
    assert (result.first_ok <= result.found_at).all()
    assert (result.found_at <= 60).all()
    assert (result.first_ok > 0).all()
    assert result.evaluations == search.gradient_evaluations == 60


@pytest.mark.parametrize(
    ("attack", "dual"),
    [
        (DDN(stay_in_range=False), jnp.linalg.norm),
        (FMN(stay_in_range=False), jnp.linalg.norm),
        (FMN(norm="Linf", stay_in_range=False), lambda v, axis: jnp.abs(v).sum(axis)),
        (BEST.revised(200, False), jnp.linalg.norm),
    ],
    ids=["ddn", "fmn", "fmn linf", "best"],
)
def test_distance_to_a_linear_boundary(attack, dual, linear):
    result = run_linear(attack, linear)
    exact = exact_distances(linear, dual)
    assert result.succeeded.all()
    ratios = np.asarray(result.norm) / exact
    assert (ratios >= 1 - ROUNDING).all()
    # A path need not end at the nearest of all boundaries, but for nearly all images it does.
    assert np.median(ratios) < 1 + COARSENESS
    assert (ratios < 1 + COARSENESS).sum() >= 13


@pytest.mark.parametrize("attack", SEARCHES)
def test_image_over_the_boundary_has_distance_zero(attack, linear):
    logits_fn, _, images, _ = linear
    wrong = logits_fn(images).argmin(-1).astype(jnp.int32)
    result = run_linear(ATTACKS[attack], linear, wrong)
    assert result.succeeded.all()
    for field in (result.norm, result.rms, result.first_ok, result.found_at, result.perturbation):
        assert (field == 0).all()


def hopeless(slope, images):
    height = slope * images.mean((1, 2, 3))
    return jnp.stack([2 - height, height], axis=-1)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("slope", [1.0, 0.0])
def test_what_cannot_succeed_is_no_success_and_has_no_distance(slope, attack):
    """Where there is a gradient, but no image at which the second class wins, and where there is none."""
    network = jax.tree_util.Partial(hopeless, slope)
    result = run(ATTACKS[attack], network, jnp.full((2, *SHAPE), 0.25), jnp.zeros(2, jnp.int32))
    assert not result.succeeded.any()
    assert result.finite.all()
    assert jnp.isinf(result.norm).all()
    assert jnp.isinf(result.rms).all()
    assert (result.perturbation == 0).all()
    assert (result.first_ok == 60).all()


@pytest.mark.parametrize("attack", SEARCHES)
def test_nan_in_one_image_is_reported_and_stays_there(attack, linear):
    logits_fn, weights, images, labels = linear
    healthy = run_linear(ATTACKS[attack], linear)
    broken = run_linear(ATTACKS[attack], (logits_fn, weights, images.at[2, 0, 0, 0].set(jnp.nan), labels))
    np.testing.assert_array_equal(broken.finite, np.arange(16) != 2)
    assert not broken.succeeded[2]
    others = np.arange(16) != 2
    np.testing.assert_array_equal(broken.perturbation[others], healthy.perturbation[others])


@pytest.mark.parametrize("attack", SEARCHES)
def test_results_do_not_depend_on_the_batch(attack, convolutional):
    classifier, images, labels = convolutional
    together = run(ATTACKS[attack], classifier, images, labels)
    few = run(ATTACKS[attack], classifier, images[2:4], labels[2:4])
    np.testing.assert_allclose(few.norm, together.norm[2:4], rtol=DECISIONS)
    # At a fixed size of the batch, neighbours change no bit.
    other = run(ATTACKS[attack], classifier, images.at[1:].set(images[1:] ** 2), labels.at[1:].set(0))
    np.testing.assert_array_equal(other.perturbation[0], together.perturbation[0])


@pytest.mark.parametrize("attack", SEARCHES)
def test_segments_make_the_same_steps_as_one_run(attack, linear):
    logits_fn, _, images, labels = linear
    search = SEARCHES[attack]
    advance = compiled(lambda state: search.advance(logits_fn, images, labels, state, 20))
    state = search.start(images)
    for _ in range(3):
        state = advance(state)
    result = search.finish(logits_fn, images, labels, state)
    whole = run_linear(search, linear)
    np.testing.assert_allclose(result.norm, whole.norm, rtol=DECISIONS)
    np.testing.assert_array_equal(result.first_ok, whole.first_ok)
    assert result.evaluations == 60


def test_best_is_the_smaller_success_of_its_parts(convolutional):
    classifier, images, labels = convolutional
    # One image over the boundary to begin with.
    labels = labels.at[1].set((labels[1] + 1) % 10)
    best = ATTACKS["best"]
    result = run(best, classifier, images, labels)
    one, other = (run(part, classifier, images, labels) for part in best.parts)
    np.testing.assert_allclose(result.norm, np.minimum(one.norm, other.norm), rtol=DECISIONS)
    np.testing.assert_array_equal(result.first_ok, one.first_ok)
    assert result.evaluations == 60
    later = np.asarray(other.norm) < np.asarray(one.norm) * (1 - DECISIONS)
    assert (np.asarray(result.found_at)[later] >= 30).all()


def test_success_of_one_part_makes_up_for_the_failure_of_the_other():
    def result(norm, first_ok, found_at, evaluations):
        norm = jnp.array(norm)
        succeeded = jnp.isfinite(norm)
        perturbation = jnp.where(succeeded, norm, 0)[:, None]
        counts = (jnp.array(count, jnp.int32) for count in (first_ok, found_at))
        return SearchResult(perturbation, norm, norm, *counts, succeeded, succeeded | True, jnp.int32(evaluations))

    inf = float("inf")
    both = smaller_success(
        result([3.0, inf, 2.0, inf], [4, 10, 5, 10], [7, 10, 8, 10], 10),
        result([2.0, 5.0, inf, inf], [1, 2, 6, 6], [2, 3, 6, 6], 6),
    )
    np.testing.assert_array_equal(both.norm, [2, 5, 2, inf])
    np.testing.assert_array_equal(both.perturbation[:, 0], [2, 5, 2, 0])
    np.testing.assert_array_equal(both.first_ok, [4, 12, 5, 16])
    np.testing.assert_array_equal(both.found_at, [12, 13, 8, 16])
    np.testing.assert_array_equal(both.succeeded, [True, True, True, False])
    assert both.evaluations == 16


def test_new_number_of_steps_is_shared_out():
    assert [part.steps for part in BEST.revised(31, True).parts] == [15, 16]
    assert not any(part.stay_in_range for part in BEST.revised(31, False).parts)
    assert BEST.gradient_evaluations == BEST.steps == 200


def test_rounded_images_have_whole_grey_levels(linear):
    _, _, images, _ = linear
    result = run_linear(DDN(steps=60, levels=256), linear)
    assert result.succeeded.all()
    grey = (np.asarray(images + result.perturbation, np.float64)) * 255
    np.testing.assert_allclose(grey, grey.round(), atol=1e-3)


def test_images_may_leave_the_box_if_allowed(linear):
    _, _, images, _ = linear
    reached = (
        images + run_linear(DDN(steps=60, init_norm=10.0, stay_in_range=False).until(UNTIL_RANDOM), linear).perturbation
    )
    assert float(reached.max()) > 1.01


def test_record_has_all_that_results_depend_on():
    assert FMN(norm="Linf").record() == {
        "attack": "fmn",
        "steps": 100,
        "stay_in_range": True,
        "norm": "Linf",
        "step_length": 1.0,
        "last_step_length": 0.01,
        "gamma": 0.05,
        "last_gamma": 0.001,
        "climb": "margin",
        "relative": False,
    }
    record = BEST.record()
    assert (record["attack"], record["steps"], record["2.climb"]) == ("best", 200, "log_odds")
    assert len({str(attack.record()) for attack in ATTACKS.values()}) == len(ATTACKS)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_margin_is_positive_before_the_boundary_and_negative_beyond(criterion):
    logits = 3 * jax.random.normal(jax.random.key(0), (200, N_CLASSES))
    labels = jnp.arange(200, dtype=jnp.int32) % N_CLASSES
    until = CRITERIA[criterion]
    np.testing.assert_array_equal(until.success(logits, labels), until.margin(logits, labels) < 0)
    assert 20 < int(until.success(logits, labels).sum()) < 190


def test_ties_are_decided_as_argmax_does():
    tied = jnp.zeros((2, 3))
    labels = jnp.array([0, 1], jnp.int32)
    np.testing.assert_array_equal(UNTIL_MISCLASSIFIED.success(tied, labels), [False, True])
    np.testing.assert_array_equal(UNTIL_TARGET.success(tied, labels), [True, False])
    # p_y = 1/K is not above it.
    assert UNTIL_RANDOM.success(jnp.zeros((2, 4)), labels).all()


def test_margin_passes_its_gradient_to_one_rival():
    gradient = jax.grad(lambda z: UNTIL_MISCLASSIFIED.margin(z, jnp.array([0], jnp.int32)).sum())(jnp.zeros((1, 3)))
    np.testing.assert_array_equal(gradient, [[1.0, -1.0, 0.0]])


def test_margins_do_not_vanish_where_probabilities_round():
    logits, labels = jnp.array([[100.0, 0.0, -1.0]]), jnp.zeros(1, jnp.int32)
    for until in (UNTIL_MISCLASSIFIED, UNTIL_RANDOM):
        gradient = jax.grad(lambda z, until=until: until.margin(z, labels).sum())(logits)
        assert float(gradient[0, 0]) == 1


def test_published_attack_takes_a_target_too(linear):
    """As the criterion of the others; its loop is tested elsewhere."""
    logits_fn, _, images, labels = linear
    (part,) = Published(AttackSettings(eps=4.0, steps=60)).until(UNTIL_TARGET).parts
    targets = (labels + 1) % N_CLASSES
    state = compiled(lambda: part.advance(logits_fn, images, targets, part.start(images), 60))()
    result = part.finish(logits_fn, images, targets, state)
    assert result.succeeded.all()
    assert (logits_fn(images + result.perturbation).argmax(-1) == targets).all()


@pytest.mark.parametrize("attack", SEARCHES)
def test_bad_input_is_refused(attack, linear):
    logits_fn, _, images, labels = linear
    with pytest.raises(UserError, match="at least 1 attack step, got 0"):
        minimise_norm(ATTACKS[attack].revised(0, True), logits_fn, images, labels)
