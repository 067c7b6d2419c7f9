"""The paper's attacks on classifiers so small that their answers are known."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_classifier

from advx_jax.attacks import NoBetterThanRandom, Published, PublishedBounded, Targeted
from advx_jax.attacks.ascent import cross_entropy, negative_log_odds, unit_gradient
from advx_jax.errors import UserError

SHAPE = (4, 4, 3)
bounded = PublishedBounded
explanation = functools.partial(PublishedBounded, criterion=Targeted())
minimum_norm = functools.partial(Published, momentum=0.0)
better_than_random = functools.partial(minimum_norm, criterion=NoBetterThanRandom())
ATTACKS = {
    "bounded": bounded,
    "explanation": explanation,
    "minimum norm": minimum_norm,
    "better than random": better_than_random,
}

# The same arithmetic in another order, over a few dozen steps that each double small differences at most.
ROUNDING = 1e-5
# Found distances against the exact ones of a linear classifier: the last steps of the path are this coarse.
PATH_COARSENESS = 0.02


def linear_classifier(seed=0, n_classes=5, scale=4.0):
    """A linear map of the pixels: distances to its boundaries are known exactly."""
    weights = scale * jax.random.normal(jax.random.key(seed), (int(np.prod(SHAPE)), n_classes))

    return jax.tree_util.Partial(_linear, weights), weights


def _linear(weights, images):
    return (images - 0.5).reshape(images.shape[0], -1) @ weights


def batch(n=6, seed=1):
    images = jax.random.uniform(jax.random.key(seed), (n, *SHAPE))
    logits_fn, _ = linear_classifier()
    return images, logits_fn(images).argmax(-1).astype(jnp.int32)


class Ran(NamedTuple):
    """Of the whole loop: δ, its RMS, when it first did not follow the gradient, and whether that was ever.

    A bounded attack has then reached its bound, a minimum-norm attack crossed its boundary.
    """

    perturbation: jax.Array
    rms: jax.Array
    first_stop: jax.Array
    stopped: jax.Array
    finite: jax.Array


def run(attack, logits_fn, images, labels, attacked=None):
    return _run(attack, jax.tree_util.Partial(logits_fn), images, labels, attacked)


@jax.jit
def _run(attack, logits_fn, images, labels, attacked):
    perturbation, _ = attack.perturb(lambda x, state: (logits_fn(x), state), images, labels, (), attacked)
    state = attack.advance(logits_fn, images, labels, attack.init(logits_fn, images, labels), attack.steps)
    result = attack.result(logits_fn, images, labels, state)
    if isinstance(attack, PublishedBounded):
        first_stop, stopped = state.first_stop, state.first_stop < attack.steps
    else:
        first_stop, stopped = result.first_success, result.success
    return Ran(perturbation, jnp.sqrt(jnp.square(perturbation).mean((1, 2, 3))), first_stop, stopped, result.finite)


def rms(perturbation):
    return np.sqrt(np.square(perturbation).mean((1, 2, 3)))


def test_bounded_attack_ends_near_its_bound_and_makes_labels_unlikely():
    logits_fn, _ = linear_classifier()
    images, labels = batch()
    result = run(bounded(eps=0.1, steps=20, overshoot=3.0), logits_fn, images, labels)
    assert result.stopped.all()
    assert result.finite.all()
    # Not projected: the last steps of length eps·3/210 lie on either side of the bound.
    np.testing.assert_allclose(result.rms, 0.1, atol=0.1 * 3 * 2 / 210)
    np.testing.assert_allclose(result.rms, rms(result.perturbation), rtol=ROUNDING)
    before = cross_entropy(logits_fn(images), labels)
    assert (cross_entropy(logits_fn(images + result.perturbation), labels) > before).all()


def test_path_length_is_eps_times_overshoot():
    """On one straight line, inside the bound all the way, the steps add up to eps·overshoot."""

    def logits_fn(images):
        height = images.mean((1, 2, 3))
        return jnp.stack([jnp.zeros_like(height), height], axis=-1)

    images = jnp.full((1, *SHAPE), 0.5)
    result = run(explanation(eps=0.2, steps=7, overshoot=0.9), logits_fn, images, jnp.ones(1, jnp.int32))
    np.testing.assert_allclose(result.perturbation, 0.2 * 0.9, rtol=ROUNDING)
    assert not result.stopped[0]
    assert result.first_stop[0] == 7


@pytest.mark.parametrize("overshoot", [1.0, 3.0])
def test_first_stop_of_bounded_attack_is_the_first_step_outside(overshoot):
    logits_fn, _ = linear_classifier()
    images, labels = batch()
    result = run(bounded(eps=0.1, steps=10, overshoot=overshoot), logits_fn, images, labels)
    # Step lengths of a straight path; a linear classifier's gradient direction hardly turns.
    lengths = 0.1 * overshoot * (10 - np.arange(10)) / 55
    straight = int(np.argmax(np.concatenate([[0], np.cumsum(lengths)[:-1]]) >= 0.1)) if overshoot > 1 else 10
    assert (np.abs(np.asarray(result.first_stop) - straight) <= 1).all()


def test_targeted_attack_raises_the_targets_probability():
    logits_fn, _ = linear_classifier()
    images, labels = batch()
    targets = (labels + 1) % 5
    result = run(explanation(eps=0.1, steps=20, overshoot=3.0), logits_fn, images, targets)
    after = jax.nn.softmax(logits_fn(images + result.perturbation))[jnp.arange(6), targets]
    before = jax.nn.softmax(logits_fn(images))[jnp.arange(6), targets]
    assert (after > before).all()


def test_minimum_norm_attack_finds_the_distance_to_the_nearest_boundary():
    logits_fn, weights = linear_classifier()
    images, labels = batch(n=16)
    result = run(minimum_norm(eps=2.0, steps=300, momentum=0.9), logits_fn, images, labels)
    logits = logits_fn(images)
    margins = logits[jnp.arange(16), labels][:, None] - logits
    normals = jnp.linalg.norm(weights[:, labels].T[:, :, None] - weights[None], axis=1)
    distances = jnp.where(normals > 0, margins / jnp.where(normals > 0, normals, 1), jnp.inf).min(-1)
    exact = np.asarray(distances) / np.sqrt(np.prod(SHAPE))
    assert result.stopped.all()
    assert (result.rms >= exact * (1 - ROUNDING)).all()
    # The path need not end at the nearest of all boundaries, but for most images it does.
    assert np.median(result.rms / exact) < 1 + PATH_COARSENESS
    assert (logits_fn(images + result.perturbation).argmax(-1) != labels).all()


def test_better_than_random_attack_ends_at_chance():
    logits_fn, _ = linear_classifier()
    images, labels = batch(n=16)
    result = run(better_than_random(eps=2.0, steps=300, momentum=0.9), logits_fn, images, labels)
    own = jax.nn.softmax(logits_fn(images + result.perturbation))[jnp.arange(16), labels]
    assert (own <= 1 / 5).all()
    np.testing.assert_allclose(own, 1 / 5, atol=PATH_COARSENESS)
    plain = run(minimum_norm(eps=2.0, steps=300, momentum=0.9), logits_fn, images, labels)
    # No better than random is a stronger demand than misclassified, where the label starts above all others.
    assert (result.rms >= plain.rms * (1 - ROUNDING)).all()


@pytest.mark.parametrize("attack", [minimum_norm, better_than_random])
def test_misclassified_images_have_distance_zero(attack):
    logits_fn, _ = linear_classifier()
    images, _ = batch()
    wrong = logits_fn(images).argmin(-1).astype(jnp.int32)
    result = run(attack(eps=1.0, steps=9), logits_fn, images, wrong)
    assert (result.perturbation == 0).all()
    assert (result.first_stop == 0).all()
    assert result.stopped.all()


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_vanishing_eps_gives_vanishing_perturbation(attack):
    logits_fn, _ = linear_classifier()
    images, labels = batch()
    sizes = [
        float(rms(run(attack(eps=eps, steps=5), logits_fn, images, labels).perturbation).max())
        for eps in (1e-2, 1e-4, 1e-6)
    ]
    assert all(size <= eps * 1.001 for size, eps in zip(sizes, (1e-2, 1e-4, 1e-6), strict=True))


def test_example_that_never_flips_has_no_distance():
    logits_fn, _ = linear_classifier()
    images, labels = batch()
    result = run(minimum_norm(eps=1e-5, steps=6), logits_fn, images, labels)
    assert not result.stopped.any()
    assert (result.first_stop == 6).all()
    # Nor may its unperturbed image, which stands in for none, be taken for a distance of 0.
    found = minimum_norm(eps=1e-5, steps=6)(logits_fn, images, labels)
    assert jnp.isinf(found.rms).all()
    assert (found.adversarial == images).all()


@pytest.mark.parametrize("attack", [minimum_norm, better_than_random])
def test_logits_that_are_no_numbers_cross_no_boundary(attack):
    """The index of a NaN is the largest to argmax, and a masked label's class is none at all."""
    images, labels = batch()
    logits_fn, _ = linear_classifier()
    for value in (jnp.nan, jnp.inf, -jnp.inf):

        def damaged(images, value=value):
            return logits_fn(images).at[2, labels[2]].set(value).at[3, (labels[3] + 1) % 5].set(value)

        result = attack(eps=2.0, steps=20)(damaged, images, labels)
        # Other classes may be masked, by -inf and nothing else.
        no_numbers = np.isin(np.arange(6), [2, 3] if value != -jnp.inf else [2])
        np.testing.assert_array_equal(result.finite, ~no_numbers)
        assert jnp.isinf(result.rms[no_numbers]).all()
        assert not result.success[no_numbers].any()
        assert result.success[~no_numbers].all()
        assert (result.rms[~no_numbers] > 0).all()


def test_flip_seen_only_after_the_last_step_counts():
    """The last of the T+1 evaluations finds the boundary crossed by step T-1."""

    def logits_fn(images):
        height = images.mean((1, 2, 3))
        return jnp.stack([1.0 - height, height - 0.0], axis=-1)

    images = jnp.zeros((1, *SHAPE))
    # Straight path of length 0.52 in 3 steps; all but the last, 0.52·(5/6), stay below the boundary at 0.5.
    result = run(minimum_norm(eps=0.52, steps=3), logits_fn, images, jnp.zeros(1, jnp.int32))
    assert result.stopped[0]
    assert result.first_stop[0] == 3
    np.testing.assert_allclose(result.rms, 0.52, rtol=ROUNDING)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_results_do_not_depend_on_the_batch(attack):
    logits_fn, _ = linear_classifier()
    images, labels = batch()
    made = attack(eps=0.1, steps=12, overshoot=2.0, momentum=0.5)
    together = run(made, logits_fn, images, labels)
    for i in range(3):
        alone = run(made, logits_fn, images[i : i + 1], labels[i : i + 1])
        np.testing.assert_allclose(alone.perturbation[0], together.perturbation[i], atol=ROUNDING)
        assert alone.first_stop[0] == together.first_stop[i]


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_neighbours_in_a_chunk_change_no_bit(attack):
    """On a convolutional network, at a fixed size of the batch."""
    classifier = random_classifier()
    images = jax.random.uniform(jax.random.key(0), (6, 8, 8, 3))
    labels = jax.jit(classifier)(images).argmax(-1).astype(jnp.int32)
    made = attack(eps=0.5, steps=12, momentum=0.5)
    one = run(made, classifier, images, labels)
    other = run(made, classifier, images.at[1:].set(images[1:] ** 2), labels.at[1:].set(0))
    np.testing.assert_array_equal(one.perturbation[0], other.perturbation[0])
    assert (one.perturbation[1:] != other.perturbation[1:]).any()


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_permuting_the_batch_permutes_the_results(attack):
    logits_fn, _ = linear_classifier()
    images, labels = batch()
    made = attack(eps=0.1, steps=12, overshoot=2.0)
    order = np.array([3, 0, 5, 1, 4, 2])
    permuted = run(made, logits_fn, images[order], labels[order])
    np.testing.assert_allclose(
        permuted.perturbation, run(made, logits_fn, images, labels).perturbation[order], atol=ROUNDING
    )


def test_vmap_over_targets_equals_one_attack_a_target():
    logits_fn, _ = linear_classifier()
    images, _ = batch(n=2)
    attack = functools.partial(run, explanation(eps=0.1, steps=8, overshoot=2.0), logits_fn, images)
    together = jax.vmap(lambda target: attack(jnp.full(2, target)))(jnp.arange(5))
    for target in range(5):
        alone = attack(jnp.full(2, target, jnp.int32))
        np.testing.assert_allclose(together.perturbation[target], alone.perturbation, atol=ROUNDING)


def test_examples_left_out_stay_as_they_are():
    logits_fn, _ = linear_classifier()
    images, labels = batch()
    attacked = jnp.array([True, False, True, False, False, True])
    half = run(bounded(eps=0.1, steps=5), logits_fn, images, labels, attacked)
    whole = run(bounded(eps=0.1, steps=5), logits_fn, images, labels)
    assert (half.perturbation[~attacked] == 0).all()
    np.testing.assert_allclose(half.perturbation[attacked], whole.perturbation[attacked], atol=ROUNDING)


def test_segments_make_the_same_steps_as_one_run():
    logits_fn, _ = linear_classifier()
    images, labels = batch()
    attack = bounded(eps=0.1, steps=9, overshoot=2.0, momentum=0.9)
    state = attack.init(logits_fn, images, labels)
    for n_steps in (2, 4, 3):
        state = attack.advance(logits_fn, images, labels, state, n_steps)
    assert int(state.step) == 9
    whole = run(attack, logits_fn, images, labels)
    np.testing.assert_allclose(state.perturbation, whole.perturbation, atol=ROUNDING)
    np.testing.assert_array_equal(state.first_stop, whole.first_stop)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_stay_in_range_keeps_images_in_the_unit_cube(attack):
    logits_fn, _ = linear_classifier()
    images, labels = batch()
    made = attack(eps=0.5, steps=12, overshoot=2.0)
    free = run(made, logits_fn, images, labels).perturbation + images
    kept = run(made.replace(stay_in_range=True), logits_fn, images, labels).perturbation + images
    if attack in (bounded, explanation):
        assert float(free.max()) > 1.01
    # x + (clip(x + δ) - x) may round by one unit in the last place.
    assert -1e-6 <= float(kept.min()) <= float(kept.max()) <= 1 + 1e-6
    assert float(jnp.abs(kept - images).max()) > 0


def test_nan_in_one_image_is_reported_and_stays_there():
    logits_fn, _ = linear_classifier()
    images, labels = batch()
    attack = bounded(eps=0.1, steps=6, overshoot=2.0)
    broken = run(attack, logits_fn, images.at[2, 0, 0, 0].set(jnp.nan), labels)
    healthy = run(attack, logits_fn, images, labels)
    np.testing.assert_array_equal(broken.finite, [True, True, False, True, True, True])
    others = np.array([0, 1, 3, 4, 5])
    np.testing.assert_array_equal(broken.perturbation[others], healthy.perturbation[others])


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_bad_input_is_refused(attack):
    with pytest.raises(UserError, match="at least 1 step, got 0"):
        attack(eps=0.1, steps=0)


def test_scale_free_direction_is_the_published_one_where_that_is_well_scaled():
    logits_fn, _ = linear_classifier(scale=0.3)
    images, labels = batch()

    def direction(height, name):
        gradient = jax.grad(lambda x: height(logits_fn(x), labels).sum())(images)
        return unit_gradient(name, gradient)

    np.testing.assert_allclose(
        direction(cross_entropy, "cross_entropy"), direction(negative_log_odds, "scale_free"), atol=ROUNDING
    )


def test_scale_free_direction_does_not_vanish_on_saturated_logits():
    logits_fn, weights = linear_classifier()
    images, labels = batch()

    def saturated(images):
        return 1e5 * logits_fn(images)

    assert (cross_entropy(saturated(images), labels) == 0).all()
    free = run(bounded(eps=0.1, steps=1, direction="scale_free"), saturated, images, labels)
    np.testing.assert_allclose(free.rms, 0.1, rtol=ROUNDING)
    # Far from all boundaries but one, the way out is the difference of the two classes' weights.
    second = jnp.argsort(logits_fn(images), axis=-1)[:, -2]
    normal = (weights[:, second] - weights[:, labels]).T
    cosine = (free.perturbation.reshape(6, -1) * normal).sum(-1) / (
        jnp.linalg.norm(free.perturbation.reshape(6, -1), axis=-1) * jnp.linalg.norm(normal, axis=-1)
    )
    np.testing.assert_allclose(cosine, 1, atol=ROUNDING)


def test_scale_free_direction_of_a_zero_gradient_is_zero():
    assert (unit_gradient("scale_free", jnp.zeros((2, *SHAPE))) == 0).all()
    tiny = jnp.full((1, *SHAPE), 1e-30)
    np.testing.assert_allclose(unit_gradient("scale_free", tiny), 1, rtol=ROUNDING)
    assert (unit_gradient("cross_entropy", tiny) < 1e-20).all()
