"""Frank-Wolfe: the farthest point of ball and box, and what becomes of explanations in other norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_classifier

from advx_jax.analysis.attribution import AdversarialExplanation
from advx_jax.analysis.explanations import explain
from advx_jax.attacks import EXPLANATIONS, PGD, FrankWolfe, Targeted
from advx_jax.attacks.frank_wolfe import farthest, lp_size
from advx_jax.errors import UserError

POWERS = {"L1.5": 1.5, "L2": 2.0}
RNG = np.random.default_rng(0)
GRADIENT = RNG.normal(size=(5, 4, 3, 2)) * 10.0 ** RNG.integers(-4, 5, (5, 1, 1, 1))
ROOM = RNG.uniform(size=GRADIENT.shape)
ROOM[0, 0] = 0
GRADIENT[1, 1] = 0


def in_ball_and_box(power, gradient, eps, room):
    """By the multiplier λ of ‖δ‖_p^p = eps^p: δ_i = min(room_i, (|g_i|/(pλ))^(1/(p-1))), λ bisected."""
    g = np.abs(gradient)

    def at(log_multiplier):
        return np.minimum(room, (g / (power * np.exp(log_multiplier))) ** (1 / (power - 1)))

    low, high = -60.0, 60.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (at(middle) ** power).sum() > eps**power else (low, middle)
    return np.sign(gradient) * at(high)


@pytest.mark.parametrize("eps", [0.01, 0.5, 2.0, 100.0])
@pytest.mark.parametrize("norm", POWERS)
def test_the_farthest_point_is_that_of_the_multiplier(norm, eps):
    found = farthest(norm, jnp.asarray(GRADIENT, jnp.float32), eps, jnp.asarray(ROOM, jnp.float32))
    for one, gradient, room in zip(np.asarray(found), GRADIENT, ROOM, strict=True):
        np.testing.assert_allclose(one, in_ball_and_box(POWERS[norm], gradient, eps, room), rtol=2e-4, atol=1e-5)
        assert (np.abs(one) ** POWERS[norm]).sum() ** (1 / POWERS[norm]) <= eps * (1 + 1e-6)


@pytest.mark.parametrize("norm", ["L1.5", "L2", "Linf"])
def test_without_a_box_it_is_the_dual_vector(norm):
    """Hölder's inequality is an equality there: g·δ = eps·‖g‖_q, 1/p + 1/q = 1."""
    gradient = jnp.asarray(GRADIENT, jnp.float32)
    delta = farthest(norm, gradient, 0.7, jnp.full_like(gradient, jnp.inf))
    dual = {"L1.5": 3, "L2": 2, "Linf": 1}[norm]
    reached = np.einsum("bhwc,bhwc->b", GRADIENT, np.asarray(delta, np.float64))
    wanted = 0.7 * (np.abs(GRADIENT) ** dual).sum((1, 2, 3)) ** (1 / dual)
    np.testing.assert_allclose(reached, wanted, rtol=1e-5)
    np.testing.assert_allclose(lp_size(norm, delta), 0.7, rtol=1e-5)


def test_a_gradient_of_zero_moves_nothing():
    zero = jnp.zeros((2, 3, 3, 1))
    for norm in ("L1.5", "L2", "Linf"):
        np.testing.assert_array_equal(farthest(norm, zero, 1.0, zero + 1), zero)


def test_on_a_linear_classifier_the_first_step_is_the_answer():
    """Cross-entropy of two classes has one direction everywhere, so the best point is the farthest one."""
    weights = jnp.asarray(RNG.normal(size=(12, 2)), jnp.float32)

    def model(images):
        return 0.1 * images.reshape(len(images), -1) @ weights

    images = jnp.full((3, 2, 2, 3), 0.5)
    attack = FrankWolfe(eps=0.3, steps=3, criterion=Targeted())
    labels = jnp.array([0, 1, 0])
    state = attack.advance(model, images, labels, attack.init(model, images, labels), 3)
    best = np.asarray(weights.T[labels] - weights.T[1 - labels]).reshape(images.shape)
    wanted = farthest("L1.5", jnp.asarray(best), 0.3, jnp.full_like(images, 0.5))
    np.testing.assert_allclose(state.perturbation, wanted, atol=1e-5)
    np.testing.assert_array_equal(state.first_stop, 1)


@pytest.mark.parametrize("norm", ["L1.5", pytest.param("Linf", marks=pytest.mark.slow)])
def test_images_are_explained_in_other_norms(norm):
    classifier = random_classifier()
    images = np.random.default_rng(1).uniform(size=(3, 8, 8, 3)).astype(np.float32)
    attack = EXPLANATIONS[norm].with_settings(steps=6)
    found = dict(explain(classifier, images, attack, targets=np.array([[1, 2], [3, 4], [5, 6]])))
    assert sorted(found) == [0, 1, 2]
    for place, explanation in found.items():
        assert (
            np.asarray(lp_size(norm, jnp.asarray(explanation.perturbations))) <= float(attack.eps) * (1 + 1e-5)
        ).all()
        explained = images[place] + explanation.perturbations
        confidences = np.asarray(jax.nn.softmax(classifier(jnp.asarray(explained))))
        assert (confidences[[0, 1], explanation.targets] > explanation.confidences[explanation.targets]).all()


@pytest.mark.parametrize("towards_own", [True, False])
@pytest.mark.parametrize("norm", ["L1.5", "Linf"])
def test_images_of_which_the_network_is_certain_are_explained(norm, towards_own):
    """Towards the class whose probability is 1 already, and from there: the answer is that of a linear classifier."""

    def certain(images):
        return 400 * images.mean((1, 2))

    images = np.tile(np.float32([0.8, 0.5, 0.5]), (2, 4, 4, 1))
    assert (jax.nn.softmax(certain(jnp.asarray(images)))[:, 0] == 1).all()
    attack = FrankWolfe(eps=0.01, norm=norm, steps=3, criterion=Targeted())
    target = 0 if towards_own else 1
    (_, found), _ = explain(certain, images, attack, targets=np.full((2, 1), target))
    change = found.perturbations[0].mean((0, 1))
    np.testing.assert_allclose(lp_size(norm, jnp.asarray(found.perturbations)), 0.01, rtol=1e-3)
    others = np.delete(change, target)
    assert change[target] > 0
    assert (others <= 0).all()
    assert (others < 0).any()
    assert found.reached.all()


@pytest.mark.parametrize("steps", [1, 3])
def test_the_last_point_may_be_the_explanation(steps):
    """Of a linear classifier's path it is as good as the first one; here each is better than the one before."""
    weights = jnp.asarray(np.random.default_rng(2).normal(size=(12, 3)), jnp.float32)

    def curved(images):
        return jnp.tanh(0.3 * (images - 0.5).reshape(len(images), -1) @ weights) * 5

    images = np.full((2, 2, 2, 3), 0.5, np.float32)
    targets = np.array([[1], [2]])
    attack = FrankWolfe(eps=0.3, norm="Linf", steps=steps, criterion=Targeted())
    labels = jnp.asarray(targets[:, 0], jnp.int32)
    begun = jnp.asarray(images)
    state = attack.advance(curved, begun, labels, attack.init(curved, begun, labels), steps)
    confidences = [
        np.asarray(jax.nn.softmax(curved(images + delta)))[[0, 1], labels]
        for delta in (state.perturbation, state.iterate)
    ]
    last_is_better = confidences[1] > confidences[0]
    if steps == 1:
        assert last_is_better.all()
    wanted = np.where(last_is_better[:, None, None, None], state.iterate, state.perturbation)
    explained = [explanation for _, explanation in sorted(explain(curved, images, attack, targets=targets))]
    np.testing.assert_allclose([one.perturbations[0] for one in explained], wanted, atol=1e-6)
    attributed = AdversarialExplanation(attack=attack)(curved, images, targets[:, 0])
    np.testing.assert_allclose(attributed, wanted, atol=1e-6)
    np.testing.assert_allclose(attack(curved, images, targets[:, 0]).adversarial - images, wanted, atol=1e-6)


def test_explanations_that_end_short_of_their_bound_say_so():
    """In a box without room, and where the path turns about: between corners of the ball lie shorter changes."""
    attack = FrankWolfe(eps=0.3, norm="L1.5", steps=4, criterion=Targeted())

    def explained(model, images):
        ((_, found),) = explain(model, images, attack, targets=np.array([[0]]))
        return found

    def brighter(images):
        return jnp.stack([images.sum((1, 2, 3)), jnp.zeros(len(images))], 1)

    free = explained(brighter, np.full((1, 2, 2, 3), 0.5, np.float32))
    np.testing.assert_array_equal(free.reached, True)
    np.testing.assert_array_equal(free.first_ok, 1)
    full = explained(brighter, np.full((1, 2, 2, 3), 0.99, np.float32))
    np.testing.assert_array_equal(full.reached, False)
    np.testing.assert_array_equal(full.first_ok, 4)

    def peaked(images):
        """Likeliest a third of the way to the ball's surface; the path turns about there."""
        return jnp.stack([-20 * (images[:, 0, 0, 0] - 0.6) ** 2, jnp.zeros(len(images))], 1)

    turning = explained(peaked, np.full((1, 2, 2, 3), 0.5, np.float32))
    np.testing.assert_allclose(turning.perturbations[0, 0, 0, 0], 0.1, rtol=1e-4)
    np.testing.assert_array_equal(turning.reached, False)
    np.testing.assert_array_equal(turning.first_ok, 4)


def test_other_attacks_do_not_know_its_norm():
    assert FrankWolfe(eps=1.0, norm="l1.5").norm == FrankWolfe(eps=1.0, norm=1.5).norm == "L1.5"
    with pytest.raises(UserError, match=r"^expected L2 or Linf as the norm, got 'L1.5'$"):
        PGD(eps=1.0, norm="L1.5")
    with pytest.raises(UserError, match=r"^expected L1.5, L2 or Linf as the norm, got 'L1'$"):
        FrankWolfe(eps=1.0, norm="L1")
