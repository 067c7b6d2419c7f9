"""Logits of half precision, and classes that are dead or masked: normal, and no reason to call a network robust."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_classifier
from parametrised import some

from advx_jax.attacks import (
    APGD,
    APGDT,
    DDN,
    EXPLANATION,
    FAB,
    FABT,
    FMN,
    PGD,
    Misclassified,
    NoBetterThanRandom,
    Published,
    Square,
    Targeted,
)
from advx_jax.attacks.ascent import cross_entropy, negative_log_odds
from advx_jax.attacks.criteria import are_numbers, clearly_met, logit_lag
from advx_jax.attacks.losses import dlr, likeliest_targets, targeted_dlr

N, K, SHAPE = 12, 5, (4, 4, 3)
LOWEST = float(jnp.finfo(jnp.float32).min)
MASKS = [-1e9, LOWEST, -float("inf")]
# Half of the images lie nearer to a boundary, and none within 4 % of it.
EPS = 0.0725
# Decisions near a boundary, and sums in another order.
DECISIONS = 0.02


WEIGHTS = 4 * np.random.default_rng(0).normal(size=(int(np.prod(SHAPE)), K)).astype(np.float32)


def linear(images):
    return (images - 0.5).reshape(len(images), -1) @ WEIGHTS


# Of classes that are alive, and never likely.
ALIVE = -30.0


def with_masked_classes(mask, images):
    """Classes 0 and 6 of seven are masked."""
    masked = jnp.broadcast_to(mask, (len(images), 1))
    return jnp.concatenate([masked, linear(images), masked], axis=1)


def network(mask):
    """The mask is an argument of compiled code, so that one compilation does for all."""
    return jax.tree_util.Partial(with_masked_classes, jnp.float32(mask))


@functools.cache
def batch():
    images = jax.random.uniform(jax.random.key(1), (N, *SHAPE), minval=0.3, maxval=0.7)
    return images, linear(images).argmax(-1).astype(jnp.int32)


@pytest.mark.parametrize("mask", MASKS)
def test_masked_classes_decide_nothing(mask):
    logits = jnp.array([[1.0, 2.0, 1.5], [20.0, 20.001, 20.5], [1.0, 0.999, -30.0], [1.0, 1.0 + 2e-7, -30.0]])
    labels = jnp.zeros(4, jnp.int32)
    masked = jnp.concatenate([logits, jnp.full((4, 2), mask)], axis=1)
    plain = clearly_met(Misclassified(), logits, labels)
    np.testing.assert_array_equal(plain, [True, True, False, False])
    np.testing.assert_array_equal(clearly_met(Misclassified(), masked, labels), plain)
    np.testing.assert_array_equal(clearly_met(Targeted(), masked, labels + 1), [True, False, False, False])
    np.testing.assert_array_equal(clearly_met(NoBetterThanRandom(), masked, labels), [True, False, False, False])


def test_rounding_follows_the_two_logits_that_are_compared():
    """100 units in the last place of the larger one, by which compilations of a deep network differ."""
    labels = jnp.zeros(1, jnp.int32)
    for own in (1e-6, 1.0, 1e6):
        for units, met in ((50, False), (200, True)):
            logits = jnp.array([[own, own * (1 + units * 2.0**-23), -3 * own]])
            assert clearly_met(Misclassified(), logits, labels)[0] == met
            assert clearly_met(Targeted(), logits, labels + 1)[0] == met


def test_rounding_of_log_odds_is_that_of_probabilities_at_least():
    labels = jnp.zeros(1, jnp.int32)
    for difference, met in ((2e-6, False), (1e-4, True)):
        assert clearly_met(NoBetterThanRandom(), jnp.array([[0.0, difference]]), labels)[0] == met


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("criterion", [Misclassified(), Targeted()], ids=lambda criterion: criterion.name)
def test_a_step_of_the_grid_decides_and_a_tie_does_not(criterion, dtype):
    for value in (0.01, 1.0, 1.99, 2.0, 200.0):
        own = jnp.asarray(value, dtype)
        above = own * (1 + jnp.finfo(dtype).eps)
        above = above if above > own else own * (1 + 2 * jnp.finfo(dtype).eps)
        logits = jnp.stack([jnp.stack([own, above]), jnp.stack([own, own]), jnp.stack([above, own])])
        assert logits.dtype == dtype
        # The label is left, or the target reached.
        labels = jnp.full(3, int(criterion.towards_label), jnp.int32)
        np.testing.assert_array_equal(clearly_met(criterion, logits, labels), [True, False, False])


def test_only_minus_infinity_of_other_classes_is_a_number():
    inf, nan = jnp.inf, jnp.nan
    logits = jnp.array([[1, -inf], [-inf, -inf], [-inf, 1], [1, inf], [inf, 1], [1, nan], [nan, 1], [1, LOWEST]])
    expected = [True, False, False, False, False, False, False, True]
    np.testing.assert_array_equal(are_numbers(logits, jnp.zeros(8, jnp.int32)), expected)


HEIGHTS = {
    "cross-entropy": cross_entropy,
    "log odds": negative_log_odds,
    "margin": logit_lag,
    "dlr": dlr,
    "targeted dlr": lambda z, y: targeted_dlr(z, y, (y + 1) % z.shape[-1]),
    "targeted dlr, masked": lambda z, y: targeted_dlr(z, y, jnp.full_like(y, 4)),
    "until random": NoBetterThanRandom().margin,
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("alive", [1, 2, 3, 5])
@pytest.mark.parametrize("name", HEIGHTS)
def test_gradients_are_finite_where_classes_are_masked(name, alive, mask):
    labels = jnp.zeros(2, jnp.int32)

    def total(logits):
        masked = jnp.where(jnp.arange(5) < alive, logits, mask)
        return HEIGHTS[name](masked, labels).sum()

    gradient = jax.grad(total)(jnp.array([[1.0, 2.0, 0.5, -1.0, 0.0], [2.0, 1.0, 1.5, -1.0, 0.0]]))
    assert jnp.isfinite(gradient).all()
    if alive == 2 and "masked" not in name:
        # There is a way out, and its direction survives the division.
        assert (gradient[:, 0] * gradient[:, 1] < 0).all()


def test_masked_classes_are_the_last_targets_and_the_label_is_none():
    logits = jnp.array([[1.0, -jnp.inf, 3.0, -jnp.inf, 2.0]])
    for label, expected in ((0, [2, 4, 1, 3]), (2, [4, 0, 1, 3])):
        np.testing.assert_array_equal(likeliest_targets(logits, jnp.array([label]), 9)[:, 0], expected)


ATTACKS = {
    "pgd": PGD,
    "apgd-ce": APGD,
    "apgd-dlr": functools.partial(APGD, loss="dlr"),
    "apgd-t": functools.partial(APGDT, n_targets=6),
    "fab": FAB,
    "fab-t": functools.partial(FABT, n_targets=6),
    "square": Square,
}


@jax.jit
def call(attack, model, images, labels):
    return attack(model, images, labels)


@some("name", ATTACKS, by_default=("pgd", "apgd-t", "fab-t", "square"))
def test_masked_classes_make_no_network_robust(name):
    images, labels = batch()
    attack = ATTACKS[name](eps=EPS, norm="L2", steps=12)
    plain, *others = (call(attack, network(mask), images, labels + 1) for mask in (ALIVE, *MASKS))
    assert 0 < plain.success.sum() < N
    for found in others:
        assert found.finite.all()
        # Two of twelve may lie so near to eps that another direction of DLR decides.
        assert (found.success != plain.success).sum() <= (2 if name == "apgd-dlr" else 0)


SEARCHES = {
    "ddn": DDN(steps=40),
    "fmn": FMN(steps=40),
    "fmn linf": FMN(steps=40, norm="Linf"),
    "fmn adapted": FMN(steps=40, climb="log_odds", relative=True),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_masked_classes_lengthen_no_distance(name):
    images, labels = batch()
    plain, *others = (call(SEARCHES[name], network(mask), images, labels + 1) for mask in (ALIVE, *MASKS))
    for found in others:
        assert found.finite.all()
        assert (found.norm > 0).all()
        np.testing.assert_allclose(found.norm, plain.norm, rtol=DECISIONS)


def test_attacks_of_the_loop_pass_by_masked_classes():
    images, labels = batch()
    attack = Published(eps=1.0, steps=40)
    plain, *others = (call(attack, network(mask), images, labels + 1) for mask in (ALIVE, *MASKS))
    assert (plain.rms > 0).all()
    for found in others:
        assert found.finite.all()
        np.testing.assert_allclose(found.rms, plain.rms, rtol=DECISIONS)
    explanation, targets = EXPLANATION.replace(steps=5), (labels + 1) % K + 1
    for mask in MASKS:
        state = explanation.init(network(mask), images, targets)
        state = explanation.advance(network(mask), images, targets, state, 5)
        assert state.finite.all()
        assert (jnp.abs(state.perturbation).max((1, 2, 3)) > 0).all()


@pytest.mark.parametrize("name", SEARCHES)
def test_a_network_with_one_class_left_is_crossed_nowhere(name):
    images, _ = batch()

    def alone(images):
        return jnp.where(jnp.arange(3) == 1, linear(images)[:, :3], -jnp.inf)

    search = SEARCHES[name].with_settings(steps=6).with_settings(stay_in_range=False)
    result = call(search, jax.tree_util.Partial(alone), images, jnp.ones(N, jnp.int32))
    assert not result.success.any()
    assert jnp.isinf(result.norm).all()
    assert result.finite.all()


def halved(classifier, images):
    return classifier(images).astype(jnp.bfloat16)


@pytest.fixture(scope="module")
def pair():
    """A network, the same with logits in bfloat16, images and labels that both predict."""
    classifier = random_classifier()
    images = jax.random.uniform(jax.random.key(0), (24, 8, 8, 3))
    networks = [jax.tree_util.Partial(type(classifier).__call__, classifier), jax.tree_util.Partial(halved, classifier)]
    labels = [jax.jit(network)(images).argmax(-1).astype(jnp.int32) for network in networks]
    agreed = labels[0] == labels[1]
    assert agreed.sum() >= 22
    return networks, images[agreed], labels[0][agreed]


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cross_entropy", "dlr"])
def test_logits_in_bfloat16_make_no_network_robust(loss, pair):
    networks, images, labels = pair
    found = [call(APGD(eps=0.188, norm="L2", steps=20, loss=loss), network, images, labels) for network in networks]
    broken = [np.asarray(one.success) for one in found]
    assert 3 <= broken[0].sum() <= len(images) - 3
    assert (broken[0] != broken[1]).sum() <= 1
    assert found[1].adversarial.dtype == np.float32
    assert found[1].finite.all()


@pytest.mark.parametrize(
    "search", [pytest.param(FMN(steps=40), id="fmn"), pytest.param(DDN(steps=40), id="ddn", marks=pytest.mark.slow)]
)
def test_logits_in_bfloat16_lengthen_no_distance(search, pair):
    """But for what their grid hides: a boundary is crossed only where the next step of the grid is."""
    networks, images, labels = pair
    exact, half = (call(search, network, images, labels) for network in networks)
    assert half.norm.dtype == half.adversarial.dtype == np.float32
    assert half.success.all()
    ratios = np.asarray(half.norm) / np.asarray(exact.norm)
    assert np.median(ratios) == pytest.approx(1, abs=0.05)
