"""Attacks with a fixed budget: what holds for all of them, and on linear classifiers the known answers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_classifier

from advx_jax.attacks import (
    Budget,
    apgd_attack,
    autoattack,
    fab_attack,
    pgd_attack,
    square_attack,
    targeted_apgd_attack,
    targeted_fab_attack,
)
from advx_jax.attacks.apgd import APGD_CE, APGD_DLR, APGD_T, checkpoints
from advx_jax.attacks.autoattack import STAGES, STANDARD
from advx_jax.attacks.budget import example_keys, look, nothing_found
from advx_jax.attacks.criteria import logit_lag
from advx_jax.attacks.fab import FAB, FAB_T, to_hyperplane
from advx_jax.attacks.losses import dlr, likeliest_targets, targeted_dlr
from advx_jax.attacks.pgd import PGD
from advx_jax.attacks.square import SQUARE, _bump, window_side
from advx_jax.errors import UserError

SHAPE = (6, 6, 3)
N, K = 12, 5
NORMS = ("L2", "Linf")
STEPS = 20
QUICKLY = {"xla_backend_optimization_level": 0}

ATTACKS = {
    "pgd": pgd_attack,
    "apgd-ce": apgd_attack,
    "apgd-dlr": functools.partial(apgd_attack, loss="dlr"),
    "apgd-t": targeted_apgd_attack,
    "fab": lambda *arguments, indices=None: fab_attack(*arguments[:4]),
    "fab-t": lambda *arguments, indices=None: targeted_fab_attack(*arguments[:4]),
    "square": square_attack,
}
METHODS = {
    "pgd": PGD,
    "apgd-ce": APGD_CE,
    "apgd-dlr": APGD_DLR,
    "apgd-t": APGD_T,
    "fab": FAB,
    "fab-t": FAB_T,
    "square": SQUARE,
}

# x + δ rounds by half a unit in the last place of a pixel, below 2⁻²⁴; in L2 all pixels' add up.
PIXEL_ROUNDING = 2.0**-24
# The same float32 arithmetic in a batch of another size.
ROUNDING = 1e-5
# Images whose distance to a boundary is this near to eps may fall to either side.
EDGE = 0.05
# PGD's steps do not get shorter towards the end, and 20 random windows lead only to boundaries that are much nearer.
MISSED = {"pgd": 0.25, "square": 0.8}
# What FAB's last steps, of 5 % too far and then 10 % back, leave of the way.
FAB_COARSENESS = 0.01
# Sums over the pixels of one image.
SUM_ROUNDING = 1e-4


@jax.tree_util.Partial
def linear(images):
    weights = 4 * jax.random.normal(jax.random.key(0), (int(np.prod(SHAPE)), K))
    return (images - 0.5).reshape(images.shape[0], -1) @ weights


WEIGHTS = np.asarray(4 * jax.random.normal(jax.random.key(0), (int(np.prod(SHAPE)), K)))


@functools.cache
def batch():
    # Far enough from the ends of the box for budgets that are just large enough.
    images = jax.random.uniform(jax.random.key(1), (N, *SHAPE), minval=0.3, maxval=0.7)
    return images, linear(images).argmax(-1).astype(jnp.int32)


@functools.cache
def exact_distances(norm):
    """Of each image to the nearest boundary of the linear classifier."""
    images, labels = batch()
    logits = np.asarray(linear(images))
    slopes = WEIGHTS.T[None] - WEIGHTS.T[np.asarray(labels)][:, None]
    dual = np.abs(slopes).sum(-1) if norm == "Linf" else np.sqrt((slopes**2).sum(-1))
    gaps = logits[np.arange(N), labels][:, None] - logits
    return np.where(dual > 0, gaps / np.where(dual > 0, dual, 1), np.inf).min(-1)


def quickly(function):
    """Compiled without optimisation: what runs once need not run fast."""
    return jax.jit(function, compiler_options=QUICKLY)


@functools.cache
def compiled(name):
    """One attack, compiled once for each norm and used for all values of eps."""
    return quickly(ATTACKS[name])


def eps_of(norm, quantile=0.5):
    """A budget that breaks about that part of the images."""
    return float(np.quantile(exact_distances(norm), quantile))


def run(name, norm, eps=None, seed=0, order=slice(None)):
    images, labels = batch()
    budget = Budget(jnp.float32(eps_of(norm) * 1.5 if eps is None else eps), norm, STEPS)
    indices = jnp.arange(N)[order]
    result = compiled(name)(linear, images[order], labels[order], budget, jax.random.key(seed), indices=indices)
    return getattr(result, "found", result)


def sizes_of(norm, delta):
    flat = np.asarray(delta).reshape(len(delta), -1)
    return np.abs(flat).max(1) if norm == "Linf" else np.sqrt((flat**2).sum(1))


def assert_within(norm, eps, images, adversarial):
    sizes = sizes_of(norm, np.asarray(adversarial, np.float64) - np.asarray(images, np.float64))
    rounding = PIXEL_ROUNDING * (np.sqrt(np.prod(images.shape[1:])) if norm == "L2" else 1)
    # eps itself, a float32, and the projection's factor round too.
    assert (sizes <= eps * (1 + 4 * PIXEL_ROUNDING) + 2 * rounding).all(), sizes.max() - eps
    assert 0 <= float(adversarial.min()) <= float(adversarial.max()) <= 1


@pytest.mark.parametrize("scale", [1.5, 30])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_leaves_its_budget_or_counts_what_is_not_broken(name, norm, scale):
    """Also where the box is what ends the way."""
    images, labels = batch()
    eps = eps_of(norm) * scale
    found = run(name, norm, eps)
    assert_within(norm, eps, images, found.adversarial)
    assert found.finite.all()
    assert found.broken.any()
    predicted = linear(found.adversarial).argmax(-1)
    np.testing.assert_array_equal(predicted != labels, found.broken)
    np.testing.assert_array_equal(found.adversarial[~found.broken], images[~found.broken])


@pytest.mark.parametrize(("name", "norm"), [("apgd-t", "Linf"), ("square", "L2")])
def test_so_it_is_on_a_convolutional_network(name, norm):
    classifier = random_classifier()
    images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
    labels = jax.jit(classifier)(images).argmax(-1).astype(jnp.int32)
    eps = {"L2": 2.0, "Linf": 0.06}[norm]
    attack = square_attack if name == "square" else functools.partial(targeted_apgd_attack, n_targets=2)
    found = quickly(attack)(classifier, images, labels, Budget(eps, norm, 12), jax.random.key(0))
    assert_within(norm, eps, images, found.adversarial)
    logits = jax.jit(classifier)(found.adversarial)
    # Another compilation rounds otherwise: a broken image may be found on the boundary itself.
    assert (logit_lag(logits, labels)[found.broken] > -ROUNDING).all()
    assert found.broken.any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_accuracy_never_rises_with_eps(name, norm):
    standing = [int((~run(name, norm, eps_of(norm) * scale).broken).sum()) for scale in (1e-6, 0.5, 1, 2, 4)]
    assert standing == sorted(standing, reverse=True)
    assert standing[0] == N
    assert standing[-1] < N


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_results_depend_on_key_and_index_only(name, norm):
    whole = run(name, norm)
    for field, again in zip(whole, run(name, norm), strict=True):
        np.testing.assert_array_equal(field, again)
    other = run(name, norm, seed=1)
    if "fab" not in name:
        assert (whole.adversarial != other.adversarial).any()
    order = np.random.default_rng(0).permutation(N)
    moved = run(name, norm, order=order)
    np.testing.assert_array_equal(moved.broken, whole.broken[order])
    np.testing.assert_allclose(moved.adversarial, whole.adversarial[order], atol=ROUNDING)


@pytest.mark.parametrize("name", METHODS)
def test_segments_make_the_same_steps_as_one_run(name):
    images, labels = batch()
    method = METHODS[name]
    budget = Budget(eps_of("L2"), "L2", STEPS)
    fixed = (linear, images, labels, (labels + 1) % K, budget)
    start = quickly(lambda: method.start(*fixed, example_keys(jax.random.key(0), jnp.arange(N))))
    advance = jax.jit(
        lambda state, n_steps: method.advance(*fixed, state, n_steps), static_argnums=1, compiler_options=QUICKLY
    )
    half = advance(start(), STEPS // 2)
    both, whole = advance(half, STEPS - STEPS // 2), advance(start(), STEPS)
    np.testing.assert_allclose(both.found.adversarial, whole.found.adversarial, atol=ROUNDING)
    np.testing.assert_array_equal(both.found.broken, whole.found.broken)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_robust_accuracy_of_a_linear_classifier_is_exact(name, norm):
    eps, distances = eps_of(norm), exact_distances(norm)
    found = run(name, norm, eps)
    assert not (found.broken & (distances > eps * (1 + EDGE))).any()
    missed = MISSED.get(name, EDGE)
    assert (found.broken | (distances > eps * (1 - missed))).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["fab", "fab-t"])
def test_fab_finds_the_distance_to_the_nearest_boundary(name, norm):
    images, labels = batch()
    budget = Budget(jnp.float32(eps_of(norm)), norm, STEPS)
    result = compiled(name)(linear, images, labels, budget, jax.random.key(0), indices=jnp.arange(N))
    distances = exact_distances(norm)
    assert (result.distance >= distances * (1 - ROUNDING)).all()
    np.testing.assert_allclose(result.distance, distances, rtol=FAB_COARSENESS)
    np.testing.assert_allclose(sizes_of(norm, result.adversarial - images), result.distance, rtol=ROUNDING)
    np.testing.assert_array_equal(result.found.broken, result.distance <= budget.eps)


@pytest.mark.parametrize("norm", NORMS)
def test_the_way_to_a_hyperplane_is_short_and_stays_in_the_box(norm):
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(20, *SHAPE)).astype(np.float32)
    normal = rng.normal(size=points.shape).astype(np.float32)
    normal[:, 0, 0] = 0
    reach = np.where(normal > 0, normal * (1 - points), -normal * points).sum((1, 2, 3))
    # Half and 0.95 of what the box allows, on one side, and more than there is; at any scale of the logits.
    for part, scale in ((0.5, 1), (0.95, 1e-7), (0.95, 1e-22), (2.0, 1)):
        gap = -part * reach
        scaled = jnp.asarray(normal) * np.float32(scale), jnp.asarray(gap) * np.float32(scale)
        found = np.asarray(to_hyperplane(norm, jnp.asarray(points), *scaled, True))
        free = np.asarray(to_hyperplane(norm, jnp.asarray(points), *scaled, False))
        np.testing.assert_allclose((normal * free).sum((1, 2, 3)), -gap, rtol=SUM_ROUNDING)
        assert (points + found).min() >= -PIXEL_ROUNDING
        assert (points + found).max() <= 1 + 2 * PIXEL_ROUNDING
        moved = (normal * found).sum((1, 2, 3))
        np.testing.assert_allclose(moved, np.minimum(-gap, reach), rtol=SUM_ROUNDING)
        assert (found[:, 0, 0] == 0).all()
        np.testing.assert_allclose(sizes_of(norm, found), _by_bisection(norm, points, normal, gap), rtol=SUM_ROUNDING)


def _by_bisection(norm, points, normal, gap):
    """Norm of the shortest way: pixels move along the normal (L2) or all alike (L∞), each as far as it can."""
    room = np.where(normal > 0, 1 - points, points).astype(float)
    speed = np.abs(normal) if norm == "L2" else (normal != 0).astype(float)
    low, high = np.zeros(len(points)), np.full(len(points), 1e6)
    for _ in range(100):
        middle = (low + high) / 2
        moved = np.minimum(middle[:, None, None, None] * speed, room)
        short = (np.abs(normal) * moved).sum((1, 2, 3)) < -gap
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    moved = np.minimum(high[:, None, None, None] * speed, room)
    return np.sqrt((moved**2).sum((1, 2, 3))) if norm == "L2" else moved.max((1, 2, 3))


def test_autoattack_breaks_what_any_of_its_attacks_breaks():
    images, labels = batch()
    stages = tuple(stage._replace(steps=8) for stage in STANDARD)
    eps = eps_of("Linf")
    attack = quickly(functools.partial(autoattack, linear, norm="Linf", stages=stages))
    found = attack(images, labels, eps=jnp.float32(eps), key=jax.random.key(0))
    assert_within("Linf", eps, images, found.adversarial)
    np.testing.assert_array_equal(linear(found.adversarial).argmax(-1) != labels, found.broken)
    distances = exact_distances("Linf")
    assert not (found.broken & (distances > eps * (1 + EDGE))).any()
    assert (found.broken | (distances > eps * (1 - EDGE))).all()


def test_standard_version_is_the_papers():
    assert [(stage.name, stage.steps, stage.n_targets) for stage in STANDARD] == [
        ("apgd-ce", 100, 0),
        ("apgd-t", 100, 9),
        ("fab-t", 100, 9),
        ("square", 5000, 0),
    ]
    assert set(STAGES) == {"pgd", "apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square"}


@pytest.mark.parametrize("name", ATTACKS)
def test_misclassified_images_are_broken_without_a_change(name):
    images, _ = batch()
    wrong = linear(images).argmin(-1).astype(jnp.int32)
    found = compiled(name)(
        linear, images, wrong, Budget(jnp.float32(0.1), "L2", STEPS), jax.random.key(0), indices=jnp.arange(N)
    )
    found = getattr(found, "found", found)
    assert found.broken.all()
    np.testing.assert_array_equal(found.adversarial, images)


@pytest.mark.parametrize("name", ATTACKS)
def test_nan_is_never_a_misclassification_and_stays_in_its_image(name):
    images, labels = batch()
    budget = Budget(jnp.float32(eps_of("L2") * 1.5), "L2", STEPS)
    attack = functools.partial(compiled(name), linear)
    key, indices = jax.random.key(0), jnp.arange(N)
    found = attack(images.at[2, 0, 0, 0].set(jnp.nan), labels, budget, key, indices=indices)
    healthy = attack(images, labels, budget, key, indices=indices)
    found, healthy = (getattr(result, "found", result) for result in (found, healthy))
    assert not found.broken[2]
    np.testing.assert_array_equal(found.finite, np.arange(N) != 2)
    others = np.arange(N) != 2
    np.testing.assert_array_equal(found.adversarial[others], healthy.adversarial[others])


def test_losses_are_the_papers():
    logits = jnp.array([[3.0, 1.0, 2.0, -1.0], [0.5, 4.0, 1.0, 0.0]])
    labels, targets = jnp.array([0, 2]), jnp.array([1, 0])
    np.testing.assert_allclose(logit_lag(logits, labels), [-1, 3])
    np.testing.assert_allclose(dlr(logits, labels), [-(3 - 2) / (3 - 1), -(1 - 4) / (4 - 0.5)], rtol=ROUNDING)
    np.testing.assert_allclose(
        targeted_dlr(logits, labels, targets), [-(3 - 1) / (3 - 0), -(1 - 0.5) / (4 - 0.25)], rtol=ROUNDING
    )
    # The point of DLR: neither scale nor shift of the logits matters.
    np.testing.assert_allclose(dlr(100 * logits + 7, labels), dlr(logits, labels), rtol=ROUNDING)


def test_targets_are_the_other_classes_from_the_likeliest_on():
    logits = jnp.array([[3.0, 1.0, 2.0, -1.0], [0.5, 4.0, 1.0, 0.0]])
    found = likeliest_targets(logits, jnp.array([0, 2]), 9)
    np.testing.assert_array_equal(found, [[2, 1], [1, 0], [3, 3]])


def test_checkpoints_are_the_papers():
    ends = np.flatnonzero(checkpoints(100)) + 1
    np.testing.assert_array_equal(ends, [22, 41, 57, 70, 80, 87, 93, 99])
    assert checkpoints(1).tolist() == [1]


def test_square_windows_shrink_as_in_the_paper():
    linf = [window_side(step, 32, 32, "Linf") for step in (0, 11, 51, 201, 501, 1001, 2001, 4001)]
    assert linf == [29, 20, 14, 10, 7, 5, 4, 3]
    l2 = [window_side(step, 32, 32, "L2") for step in (0, 11, 51, 201, 501, 1001, 2001, 4001)]
    assert l2 == [29, 21, 15, 11, 7, 5, 5, 3]
    for side in (1, 2, 3, 7):
        bump = _bump(side)
        assert np.sqrt((bump**2).sum()) == pytest.approx(1)
        # Positive above, negative below.
        assert (bump[: side // 2] >= 0).all()
        assert (bump[side // 2 :] <= 0).all()


def test_square_spends_its_whole_budget():
    images, labels = batch()
    for norm in NORMS:
        budget = Budget(0.05, norm, 9, stay_in_range=False)
        keys = example_keys(jax.random.key(0), jnp.arange(N))
        state = SQUARE.start(linear, images, labels, labels, budget, keys)
        begun = state.best_loss
        np.testing.assert_allclose(sizes_of(norm, state.best - images), 0.05, rtol=SUM_ROUNDING)
        state = SQUARE.advance(linear, images, labels, labels, budget, state, 9)
        np.testing.assert_allclose(sizes_of(norm, state.best - images), 0.05, rtol=SUM_ROUNDING)
        assert (state.best_loss >= begun).all()
        assert (state.best_loss > begun).any()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("norm", "L1", "expected L2 or Linf as the norm, got 'L1'"),
        ("steps", 0, "expected at least 1 attack step, got 0"),
        ("eps", 0.0, "expected eps above 0, got 0.0"),
        ("eps", float("nan"), "expected eps above 0, got nan"),
    ],
)
@pytest.mark.parametrize("name", ATTACKS)
def test_bad_budgets_are_refused(name, field, value, message):
    images, labels = batch()
    budget = Budget(0.1, "L2", 3)
    # As if made where types are not checked.
    object.__setattr__(budget, field, value)
    with pytest.raises(UserError, match=message):
        ATTACKS[name](linear, images, labels, budget, jax.random.key(0))


def test_attacks_that_never_run_are_refused():
    images, labels = batch()
    budget, key = Budget(0.1, "L2", 3), jax.random.key(0)
    for attack in (
        lambda: pgd_attack(linear, images, labels, budget, key, restarts=0),
        lambda: targeted_apgd_attack(linear, images, labels, budget, key, n_targets=0),
        lambda: targeted_fab_attack(linear, images, labels, budget, n_targets=0),
    ):
        with pytest.raises(UserError, match="expected at least 1 restart or target, got none"):
            attack()


@pytest.mark.parametrize(("name", "needed"), [("apgd-dlr", 3), ("apgd-t", 4)])
def test_too_few_classes_are_refused(name, needed):
    images, labels = batch()
    with pytest.raises(UserError, match=f"expected at least {needed} classes for the .*DLR loss, got {needed - 1}"):
        ATTACKS[name](lambda x: linear(x)[:, : needed - 1], images, labels * 0, Budget(0.1, "L2", 3), jax.random.key(0))


@pytest.mark.parametrize("loss", ["targeted_dlr", "margin"])
def test_untargeted_attacks_climb_no_targeted_loss(loss):
    images, labels = batch()
    attack = functools.partial(apgd_attack, linear, images, labels, Budget(5.0, "L2", 3), jax.random.key(0))
    if loss == "margin":
        assert attack(loss=loss).broken.all()
    else:
        with pytest.raises(UserError, match="expected one of cross_entropy, dlr, margin as the loss"):
            attack(loss=loss)


def test_what_rounding_decides_is_not_broken():
    """The point is misclassified, by one unit in the last place; the image itself may be."""
    logits = jnp.array([[1.0, 1.0 + 2e-7], [1.0, 1.1]])
    images, labels = jnp.zeros((2, 1)), jnp.zeros(2, jnp.int32)
    np.testing.assert_array_equal(look(nothing_found(images), images + 1, logits, labels).broken, [False, True])
    np.testing.assert_array_equal(look(nothing_found(images), images, logits, labels).broken, [True, True])
