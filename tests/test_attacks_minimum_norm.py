"""Minimum-norm attacks on classifiers so small that the answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_classifier

from advx_jax.attacks import (
    BEST,
    DDN,
    FMN,
    CarliniWagner,
    MinimalAPGD,
    Misclassified,
    NoBetterThanRandom,
    Restarted,
    SigmaZeroSwaps,
    SmallestSuccess,
    SteepFMN,
    Targeted,
    example_keys,
)
from advx_jax.attacks.base import AttackResult, smaller
from advx_jax.attacks.best import BEST_OF
from advx_jax.errors import UserError

SHAPE = (4, 4, 3)
N_CLASSES = 5
SEARCHES = {"ddn": DDN(steps=60), "fmn": FMN(steps=60), "fmn linf": FMN(steps=60, norm="Linf")}
ATTACKS = SEARCHES | {"best": BEST.with_settings(steps=60)}
CRITERIA = {"misclassified": Misclassified(), "random": NoBetterThanRandom(), "target": Targeted()}

# The same float32 arithmetic in another order; near a success, another order may decide otherwise for a few steps.
ROUNDING, DECISIONS = 1e-5, 0.02
# Found distances against the exact ones of a linear classifier.
COARSENESS = 0.02


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


@jax.jit
def run(attack, logits_fn, images, labels):
    return attack(logits_fn, images, labels)


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
    ("attack", "dual"),
    [
        (DDN(stay_in_range=False), jnp.linalg.norm),
        (FMN(stay_in_range=False), jnp.linalg.norm),
        (FMN(norm="Linf", stay_in_range=False), lambda v, axis: jnp.abs(v).sum(axis)),
        (BEST.with_settings(stay_in_range=False), jnp.linalg.norm),
        (BEST_OF["L1"].with_settings(stay_in_range=False), lambda v, axis: jnp.abs(v).max(axis)),
        (SteepFMN(norm="Linf", stay_in_range=False, inertia=1.0), lambda v, axis: jnp.abs(v).sum(axis)),
    ],
    ids=["ddn", "fmn", "fmn linf", "best", "best l1", "fmn-steep linf"],
)
def test_distance_to_a_linear_boundary(attack, dual, linear):
    result = run_linear(attack, linear)
    exact = exact_distances(linear, dual)
    assert result.success.all()
    ratios = np.asarray(result.norm) / exact
    assert (ratios >= 1 - ROUNDING).all()
    # A path need not end at the nearest of all boundaries, but for nearly all images it does.
    assert np.median(ratios) < 1 + COARSENESS
    assert (ratios < 1 + COARSENESS).sum() >= 13


def hopeless(slope, images):
    height = slope * images.mean((1, 2, 3))
    return jnp.stack([2 - height, height], axis=-1)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("slope", [1.0, 0.0])
def test_what_cannot_succeed_is_no_success_and_has_no_distance(slope, attack):
    """Where there is a gradient, but no image at which the second class wins, and where there is none."""
    network = jax.tree_util.Partial(hopeless, slope)
    images = jnp.full((2, *SHAPE), 0.25)
    result = run(ATTACKS[attack], network, images, jnp.zeros(2, jnp.int32))
    assert not result.success.any()
    assert result.finite.all()
    assert jnp.isinf(result.norm).all()
    assert jnp.isinf(result.rms).all()
    assert (result.adversarial == images).all()
    assert (result.first_success == 60).all()


@pytest.mark.parametrize("attack", SEARCHES)
def test_nan_in_one_image_is_reported_and_stays_there(attack, linear):
    logits_fn, weights, images, labels = linear
    healthy = run_linear(ATTACKS[attack], linear)
    broken = run_linear(ATTACKS[attack], (logits_fn, weights, images.at[2, 0, 0, 0].set(jnp.nan), labels))
    np.testing.assert_array_equal(broken.finite, np.arange(16) != 2)
    assert not broken.success[2]
    others = np.arange(16) != 2
    np.testing.assert_array_equal(broken.adversarial[others], healthy.adversarial[others])


@pytest.mark.parametrize("attack", ATTACKS)
def test_steps_one_by_one_are_the_whole(attack, linear):
    logits_fn, _, images, labels = linear
    search = ATTACKS[attack]
    keys = jax.random.split(jax.random.key(0), len(images))
    state = search.init(logits_fn, images, labels, keys)
    advance = jax.jit(lambda state: search.advance(logits_fn, images, labels, state, 20))
    for _ in range(3):
        state = advance(state)
    result = search.result(logits_fn, images, labels, state)
    whole = run_linear(search, linear)
    np.testing.assert_allclose(result.norm, whole.norm, rtol=DECISIONS)
    np.testing.assert_array_equal(result.first_success, whole.first_success)
    np.testing.assert_array_equal(result.evaluations, 60)


def test_best_is_the_smaller_success_of_its_parts(convolutional):
    classifier, images, labels = convolutional
    # One image over the boundary to begin with.
    labels = labels.at[1].set((labels[1] + 1) % 10)
    best = ATTACKS["best"]
    result = run(best, classifier, images, labels)
    one, other = (run(part.attack, classifier, images, labels) for part in best.parts())
    np.testing.assert_allclose(result.norm, np.minimum(one.norm, other.norm), rtol=DECISIONS)
    np.testing.assert_array_equal(result.first_success, one.first_success)
    assert (result.evaluations == 60).all()


def test_success_of_one_part_makes_up_for_the_failure_of_the_other():
    def result(norm, first_success, evaluations):
        norm, count = jnp.array(norm), jnp.array(first_success, jnp.int32)
        success = jnp.isfinite(norm)
        images = jnp.where(success, norm, 0)[:, None]
        return AttackResult(images, success, norm, norm, count, jnp.full(4, evaluations, jnp.int32), success | True)

    inf = float("inf")
    both = smaller(
        result([3.0, inf, 2.0, inf], [4, 10, 5, 10], 10),
        result([2.0, 5.0, inf, inf], [1, 2, 6, 6], 6),
    )
    np.testing.assert_array_equal(both.norm, [2, 5, 2, inf])
    np.testing.assert_array_equal(both.adversarial[:, 0], [2, 5, 2, 0])
    np.testing.assert_array_equal(both.first_success, [4, 12, 5, 16])
    np.testing.assert_array_equal(both.success, [True, True, True, False])
    np.testing.assert_array_equal(both.evaluations, 16)


def test_new_number_of_steps_is_shared_out():
    assert [part.attack.steps for part in BEST.with_settings(steps=31).parts()] == [15, 16]
    assert not any(part.attack.stay_in_range for part in BEST.with_settings(stay_in_range=False).parts())
    assert BEST.evaluations == BEST.n_steps == 200
    with pytest.raises(UserError, match="expected at least 2 steps for best, got 1"):
        BEST.with_settings(steps=1)


def test_sizes_in_different_norms_are_not_compared(linear):
    logits_fn, _, images, labels = linear
    with pytest.raises(UserError, match="expected attacks of one norm in smallest, got L2, Linf"):
        SmallestSuccess(attacks=(FMN(), FMN(norm="Linf")))(logits_fn, images, labels)


def test_rounded_images_have_whole_grey_levels(linear):
    result = run_linear(DDN(steps=60, levels=256), linear)
    assert result.success.all()
    grey = np.asarray(result.adversarial, np.float64) * 255
    np.testing.assert_allclose(grey, grey.round(), atol=1e-3)


def test_images_may_leave_the_box_if_allowed(linear):
    attack = DDN(steps=60, init_norm=10.0, stay_in_range=False, criterion=NoBetterThanRandom())
    reached = run_linear(attack, linear).adversarial
    assert float(reached.max()) > 1.01


@pytest.mark.parametrize("attack", [CarliniWagner(steps=3), SigmaZeroSwaps(steps=3), BEST_OF["L0"]])
def test_attacks_that_cannot_leave_the_box_say_so(attack):
    with pytest.raises(UserError, match=r"^expected stay_in_range=True for (cw|sigma-zero-swaps), which cannot leave"):
        attack.with_settings(stay_in_range=False).check(N_CLASSES)
    attack.check(N_CLASSES)


def test_settings_have_all_that_results_depend_on():
    assert FMN(norm="Linf").settings() == {
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
    record = BEST.settings()
    assert (record["attack"], record["steps"], record["2.climb"]) == ("best", 200, "log_odds")
    assert len({str(attack.settings()) for attack in ATTACKS.values()}) == len(ATTACKS)


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
    np.testing.assert_array_equal(Misclassified().success(tied, labels), [False, True])
    np.testing.assert_array_equal(Targeted().success(tied, labels), [True, False])
    # p_y = 1/K is not above it.
    assert NoBetterThanRandom().success(jnp.zeros((2, 4)), labels).all()


def test_margin_passes_its_gradient_to_one_rival():
    gradient = jax.grad(lambda z: Misclassified().margin(z, jnp.array([0], jnp.int32)).sum())(jnp.zeros((1, 3)))
    np.testing.assert_array_equal(gradient, [[1.0, -1.0, 0.0]])


def test_margins_do_not_vanish_where_probabilities_round():
    logits, labels = jnp.array([[100.0, 0.0, -1.0]]), jnp.zeros(1, jnp.int32)
    for until in (Misclassified(), NoBetterThanRandom()):
        gradient = jax.grad(lambda z, until=until: until.margin(z, labels).sum())(logits)
        assert float(gradient[0, 0]) == 1


@pytest.mark.parametrize("attack", SEARCHES)
def test_bad_settings_are_refused(attack):
    with pytest.raises(UserError, match="at least 1 step, got 0"):
        ATTACKS[attack].with_settings(steps=0)


def test_of_restarts_the_smallest_success_counts(linear):
    logits_fn, _, images, labels = linear
    model, keys = jax.tree_util.Partial(logits_fn), example_keys(jax.random.key(3), jnp.arange(len(labels)))
    attack = Restarted(attack=MinimalAPGD(steps=6, run_steps=3), restarts=3)
    together = attack(model, images, labels, keys)
    alone = [part.attack(model, images, labels, part.keys(keys)) for part in attack.parts(10)]
    norms = np.array([result.norm for result in alone])
    assert len({*norms.argmin(0).tolist()}) > 1, "the runs are to differ"
    np.testing.assert_allclose(together.norm, norms.min(0), rtol=1e-5)
