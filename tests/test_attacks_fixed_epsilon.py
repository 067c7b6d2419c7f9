"""Attacks with a fixed budget: what holds for all of them, and on linear classifiers the known answers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_classifier
from parametrised import some

from advx_jax.attacks import APGD, APGDT, FAB, FABT, PGD, AutoAttack, FirstSuccess, Restarted, Square, example_keys
from advx_jax.attacks.apgd import checkpoints
from advx_jax.attacks.apgd_phases import PhasedAPGD, planned
from advx_jax.attacks.criteria import logit_lag
from advx_jax.attacks.fab import to_hyperplane
from advx_jax.attacks.losses import dlr, likeliest_targets, targeted_dlr
from advx_jax.attacks.square import _bump, window_side
from advx_jax.errors import UserError

SHAPE = (6, 6, 3)
N, K = 12, 5
NORMS = ("L2", "Linf")
STEPS = 20
# Windows that are drawn need more of them to find a way.
SQUARE_STEPS = 40

ATTACKS = {
    "pgd": PGD,
    "apgd-ce": APGD,
    "apgd-dlr": functools.partial(APGD, loss="dlr"),
    "apgd-t": APGDT,
    "fab": FAB,
    "fab-t": FABT,
    "square": Square,
}

# Of all attacks in both norms those whose steps the others do not have; the rest is slow.
ALIKE = {(name, "L2") for name in ("apgd-dlr", "fab")}
ALIKE |= {(name, "Linf") for name in ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t")}
each_in_norms = pytest.mark.parametrize(
    ("name", "norm"),
    [
        pytest.param(name, norm, marks=pytest.mark.slow if (name, norm) in ALIKE else ())
        for name in ATTACKS
        for norm in NORMS
    ],
)

# x + δ rounds by half a unit in the last place of a pixel, below 2⁻²⁴; in L2 all pixels' add up.
PIXEL_ROUNDING = 2.0**-24
# The same float32 arithmetic in a batch of another size.
ROUNDING = 1e-5
# Images whose distance to a boundary is this near to eps may fall to either side.
EDGE = 0.05
# PGD's steps do not get shorter towards the end, and random windows lead only to boundaries that are much nearer.
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


@jax.jit
def call(attack, model, images, labels, keys):
    return attack(model, images, labels, keys)


def eps_of(norm, quantile=0.5):
    """A budget that breaks about that part of the images."""
    return float(np.quantile(exact_distances(norm), quantile))


def keys_of(seed=0, indices=None):
    return example_keys(jax.random.key(seed), jnp.arange(N) if indices is None else indices)


def make(name, norm, eps):
    """With equal types and numbers of steps, so that each is compiled once for all tests."""
    return ATTACKS[name](eps=jnp.float32(eps), norm=norm, steps=SQUARE_STEPS if name == "square" else STEPS)


def run(name, norm, eps=None):
    images, labels = batch()
    return call(make(name, norm, eps_of(norm) * 1.5 if eps is None else eps), linear, images, labels, keys_of())


def sizes_of(norm, delta):
    flat = np.asarray(delta).reshape(len(delta), -1)
    if norm == "L1":
        return np.abs(flat).sum(1)
    return np.abs(flat).max(1) if norm == "Linf" else np.sqrt((flat**2).sum(1))


def assert_within(norm, eps, images, adversarial):
    sizes = sizes_of(norm, np.asarray(adversarial, np.float64) - np.asarray(images, np.float64))
    rounding = PIXEL_ROUNDING * (np.sqrt(np.prod(images.shape[1:])) if norm == "L2" else 1)
    # eps itself, a float32, and the projection's factor round too.
    assert (sizes <= eps * (1 + 4 * PIXEL_ROUNDING) + 2 * rounding).all(), sizes.max() - eps
    assert 0 <= float(adversarial.min()) <= float(adversarial.max()) <= 1


@each_in_norms
def test_no_attack_leaves_its_budget_where_the_box_is_what_ends_the_way(name, norm):
    images, labels = batch()
    eps = eps_of(norm) * 30
    found = run(name, norm, eps)
    assert_within(norm, eps, images, found.adversarial)
    assert found.finite.all()
    assert found.success.any()
    predicted = linear(found.adversarial).argmax(-1)
    np.testing.assert_array_equal(predicted != labels, found.success)
    np.testing.assert_array_equal(found.adversarial[~found.success], images[~found.success])


@pytest.mark.parametrize(("name", "norm"), [("apgd-t", "Linf"), ("square", "L2")])
@pytest.mark.slow
def test_so_it_is_on_a_convolutional_network(name, norm):
    classifier = random_classifier()
    images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
    labels = jax.jit(classifier)(images).argmax(-1).astype(jnp.int32)
    eps = {"L2": 2.0, "Linf": 0.06}[norm]
    options = {} if name == "square" else {"n_targets": 2}
    attack = ATTACKS[name](eps=eps, norm=norm, steps=12, **options)
    found = call(attack, classifier, images, labels, keys_of(indices=jnp.arange(4)))
    assert_within(norm, eps, images, found.adversarial)
    logits = jax.jit(classifier)(found.adversarial)
    # Another compilation rounds otherwise: a broken image may be found on the boundary itself.
    assert (logit_lag(logits, labels)[found.success] > -ROUNDING).all()
    assert found.success.any()


@each_in_norms
def test_accuracy_never_rises_with_eps(name, norm):
    standing = [int((~run(name, norm, eps_of(norm) * scale).success).sum()) for scale in (1e-6, 0.5, 1, 2, 4)]
    assert standing == sorted(standing, reverse=True)
    assert standing[0] == N
    assert standing[-1] < N


# The others' steps are in these.
@some("name", ATTACKS, by_default=("square",))
def test_steps_one_by_one_are_the_whole(name):
    """As the contract says: `init`, `step` so often as `n_steps` tells, `result`; of ensembles too."""
    images, labels = batch()
    attack = make(name, "L2", eps_of("L2"))
    fixed = (linear, images, labels)
    state = jax.jit(lambda: attack.init(*fixed, keys_of()))()
    advance = jax.jit(lambda state, n: attack.advance(*fixed, state, n), static_argnums=1)
    half, odd = divmod(attack.n_steps, 2)
    assert not odd, "two programs, which take longer to compile"
    state = advance(advance(state, half), half)
    found = jax.jit(lambda state: attack.result(*fixed, state))(state)
    whole = call(attack, *fixed, keys_of())
    np.testing.assert_allclose(found.adversarial, whole.adversarial, atol=ROUNDING)
    np.testing.assert_array_equal(found.success, whole.success)
    np.testing.assert_array_equal(found.evaluations, whole.evaluations)
    np.testing.assert_array_equal(found.first_success, whole.first_success)
    assert (whole.evaluations == sum(p.attack.evaluations for p in attack.parts(K))).all()
    assert (whole.first_success <= whole.evaluations).all()


@each_in_norms
def test_robust_accuracy_of_a_linear_classifier_is_exact(name, norm):
    eps, distances = eps_of(norm), exact_distances(norm)
    found = run(name, norm, eps)
    assert not (found.success & (distances > eps * (1 + EDGE))).any()
    missed = MISSED.get(name, EDGE)
    assert (found.success | (distances > eps * (1 - missed))).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["fab", "fab-t"])
def test_fab_finds_the_distance_to_the_nearest_boundary(name, norm):
    images, labels = batch()
    # No point of the box is farther away than this.
    far = {"L2": float(np.sqrt(np.prod(SHAPE))), "Linf": 1.0}[norm]
    result = call(make(name, norm, far), linear, images, labels, keys_of())
    distances = exact_distances(norm)
    assert (result.norm >= distances * (1 - ROUNDING)).all()
    np.testing.assert_allclose(result.norm, distances, rtol=FAB_COARSENESS)
    np.testing.assert_allclose(sizes_of(norm, result.adversarial - images), result.norm, rtol=ROUNDING)
    within = run(name, norm, eps_of(norm))
    np.testing.assert_array_equal(within.success, result.norm <= np.float32(eps_of(norm)))
    np.testing.assert_array_equal(np.isinf(within.norm), ~within.success)


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_bound_fab_finds_the_same_distance(norm):
    images, labels = batch()
    far = {"L2": float(np.sqrt(np.prod(SHAPE))), "Linf": 1.0}[norm]
    bounded = call(make("fab-t", norm, far), linear, images, labels, keys_of())
    unbounded = FABT(eps=float("inf"), norm=norm, steps=STEPS)
    jax.tree.map(
        np.testing.assert_array_equal, call(make("fab-t", norm, np.inf), linear, images, labels, keys_of()), bounded
    )
    assert unbounded.settings()["eps"] is None
    unbounded.check(K)
    # Nothing found is no success, however far it may lie.
    nowhere = FAB(eps=float("inf"), norm=norm, steps=2)(lambda x: 0 * linear(x) + jnp.eye(K)[0], images, 0 * labels)
    assert not nowhere.success.any()
    assert np.isinf(nowhere.norm).all()
    for other in (PGD, APGD, Square):
        with pytest.raises(UserError, match="expected eps above 0, got inf"):
            other(eps=float("inf"), norm=norm)


@pytest.mark.parametrize("norm", ["L1", *NORMS])
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
        shortest = _steepest_first if norm == "L1" else functools.partial(_by_bisection, norm)
        np.testing.assert_allclose(sizes_of(norm, found), shortest(points, normal, gap), rtol=SUM_ROUNDING)


def test_values_that_are_equally_steep_share_the_rest_of_the_way():
    points, normal = jnp.full((1, 4), 0.5), jnp.array([[2.0, 1.0, -1.0, 0.5]])
    np.testing.assert_allclose(to_hyperplane("L1", points, normal, jnp.array([-1.5]), True), [[0.5, 0.25, -0.25, 0]])
    even = jnp.array([[1.0, 1.0, -1.0, 0.5]])
    np.testing.assert_allclose(to_hyperplane("L1", points, even, jnp.array([-3.0]), False), [[1, 1, -1, 0]])


def _steepest_first(points, normal, gap):
    """L1 norm of the shortest way: the steepest values go to their ends, one after the other."""
    steepness = np.abs(normal).reshape(len(points), -1).astype(float)
    room = np.where(normal > 0, 1 - points, points).reshape(steepness.shape).astype(float)
    order = np.argsort(-steepness, 1)
    steepness, room = (np.take_along_axis(values, order, 1) for values in (steepness, room))
    before = np.cumsum(steepness * room, 1) - steepness * room
    wanted = np.abs(gap)[:, None]
    return np.clip((wanted - before) / np.where(steepness > 0, steepness, np.inf), 0, room).sum(1)


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


def test_an_ensemble_breaks_what_any_of_its_attacks_breaks():
    images, labels = batch()
    eps = eps_of("Linf")
    ball = {"eps": jnp.float32(eps), "norm": "Linf", "steps": 8}
    found = call(
        FirstSuccess(attacks=(APGD(**ball), APGDT(**ball), FABT(**ball), Square(**ball))),
        linear,
        images,
        labels,
        keys_of(),
    )
    assert_within("Linf", eps, images, found.adversarial)
    np.testing.assert_array_equal(linear(found.adversarial).argmax(-1) != labels, found.success)
    distances = exact_distances("Linf")
    assert not (found.success & (distances > eps * (1 + EDGE))).any()
    assert (found.success | (distances > eps * (1 - EDGE))).all()


def test_autoattack_is_the_papers_standard_version():
    attack = AutoAttack(eps=0.5, norm="L2")
    names = [(part.attack.name, part.attack.n_steps) for part in attack.parts(10)]
    assert names == [("apgd-ce", 100), *[("apgd-t", 100)] * 9, *[("fab-t", 100)] * 9, ("square", 5000)]
    assert [part.path for part in attack.parts(3)] == [(0,), (1, 0), (1, 1), (2, 0), (2, 1), (3,)]


def test_autoattack_in_l1_is_the_authors_version():
    """Five starts of APGD on the cross-entropy, and five targets; each in three balls, of which two begin once more."""
    parts = AutoAttack(eps=12.0, norm="L1").parts(10)
    names = [(part.attack.name, part.attack.n_steps) for part in parts]
    assert names == [*[("apgd-ce", 102)] * 5, *[("apgd-t", 102)] * 5, *[("fab-t", 100)] * 9, ("square", 5000)]
    assert {type(part.attack) for part in parts[:10]} == {PhasedAPGD}


@pytest.mark.parametrize(("steps", "lengths"), [(100, (30, 30, 40)), (25, (8, 8, 9)), (2, (1, 1, 0)), (1, (1, 0, 0))])
def test_phases_share_all_steps(steps, lengths):
    plan = planned(steps)
    assert plan.lengths == lengths
    assert len(plan.phase) == len(plan.made) == PhasedAPGD(eps=1.0, norm="L1", steps=steps).n_steps
    assert (plan.made == -1).sum() == 2


@pytest.mark.slow
def test_only_the_last_ball_of_phases_counts():
    images, labels = batch()
    attack = PhasedAPGD(eps=1.0, norm="L1", steps=10)
    state = attack.init(linear, images, labels, keys_of())
    step = jax.jit(lambda state: attack.step(linear, images, labels, state))
    for made in range(attack.n_steps):
        far = sizes_of("L1", state.iterate - images).max()
        ball = (3, 2, 1)[0 if made < 4 else 1 if made < 8 else 2]
        assert far <= ball * (1 + SUM_ROUNDING)
        assert far > ball * 0.9
        assert not state.best_so_far.success.any() or made >= 8
        state = step(state)
    assert attack.result(linear, images, labels, state).evaluations.max() == attack.evaluations


def test_restarts_draw_anew_and_find_no_less():
    images, labels = batch()
    ball = {"eps": jnp.float32(eps_of("Linf") * 0.9), "norm": "Linf", "steps": 3}
    one = call(PGD(**ball), linear, images, labels, keys_of())
    three = call(Restarted(attack=PGD(**ball), restarts=3), linear, images, labels, keys_of())
    first, second = (part.keys(keys_of()) for part in Restarted(attack=PGD(**ball), restarts=2).parts(K))
    assert (jax.random.key_data(first) != jax.random.key_data(second)).any(-1).all()
    assert int(three.success.sum()) >= int(one.success.sum())
    assert (three.evaluations == 3 * one.evaluations).all()
    # An attack that draws nothing would do the same again.
    assert len(Restarted(attack=FAB(**ball), restarts=3).parts(K)) == 1


@pytest.mark.parametrize("name", ATTACKS)
def test_nan_is_never_a_misclassification_and_stays_in_its_image(name):
    images, labels = batch()
    attack = functools.partial(call, make(name, "L2", eps_of("L2") * 1.5), linear)
    found = attack(images.at[2, 0, 0, 0].set(jnp.nan), labels, keys_of())
    healthy = attack(images, labels, keys_of())
    assert not found.success[2]
    np.testing.assert_array_equal(found.finite, np.arange(N) != 2)
    others = np.arange(N) != 2
    np.testing.assert_array_equal(found.adversarial[others], healthy.adversarial[others])


@pytest.mark.parametrize("scale", [1 + 1e-6, 4])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_success_lies_within_eps_of_images_out_of_the_box_too(name, norm, scale):
    """By rounding, or because compiled code cannot refuse them: the box never moves the image itself."""
    images, _ = batch()
    images = scale * (images - images.min()) / (images.max() - images.min())
    images = images - (scale - 1) / 2
    labels = linear(images).argmax(-1).astype(jnp.int32)
    for eps in (1e-4, eps_of(norm) * 4):
        found = call(make(name, norm, eps), linear, images, labels, keys_of())
        sizes = sizes_of(norm, np.asarray(found.adversarial, np.float64) - np.asarray(images, np.float64))
        rounding = scale * PIXEL_ROUNDING * (np.sqrt(np.prod(SHAPE)) if norm == "L2" else 1)
        assert (sizes <= eps * (1 + 4 * PIXEL_ROUNDING) + 2 * rounding).all()
    # A few random windows may lead nowhere.
    assert found.success.any() or name == "square"


@pytest.mark.parametrize("name", ATTACKS)
def test_rounding_out_of_the_box_is_no_reason_to_refuse(name):
    images, labels = batch()
    images = images.at[:, 0, 0].set(-3e-8).at[:, 1, 0].set(1 + 1e-7)
    labels = linear(images).argmax(-1).astype(jnp.int32)
    eps = jnp.float32(eps_of("Linf") * 1.5)
    found = call(make(name, "Linf", eps), linear, images, labels, keys_of())
    assert found.finite.all()
    assert found.success.any()
    moved = jnp.abs(found.adversarial - images)
    assert (moved <= eps + 2 * PIXEL_ROUNDING).all()
    # They go back into the box, or stay no farther out of it than their image.
    assert (found.adversarial >= jnp.minimum(images, 0)).all()
    assert (found.adversarial <= jnp.maximum(images, 1)).all()


@pytest.mark.parametrize("norm", NORMS)
@some("name", ("apgd-ce", "fab-t", "square"), by_default=("square",))
def test_nothing_lies_within_an_eps_that_is_none(name, norm):
    """Compiled code cannot refuse it."""
    images, labels = batch()

    @jax.jit
    def attack(eps):
        return ATTACKS[name](eps=eps, norm=norm, steps=STEPS)(linear, images, labels, keys_of())

    for eps in (-1.0, float("nan")):
        assert not attack(jnp.float32(eps)).success.any()


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
        bump = _bump("L2", side)
        assert np.sqrt((bump**2).sum()) == pytest.approx(1)
        # Positive above, negative below.
        assert (bump[: side // 2] >= 0).all()
        assert (bump[side // 2 :] <= 0).all()


def test_square_spends_its_whole_budget():
    images, labels = batch()
    for norm in NORMS:
        square = Square(eps=0.05, norm=norm, steps=9, stay_in_range=False)
        state = jax.jit(lambda square=square: square.init(linear, images, labels, keys_of()))()
        begun = state.best_loss
        np.testing.assert_allclose(sizes_of(norm, state.best - images), 0.05, rtol=SUM_ROUNDING)
        state = jax.jit(lambda state, square=square: square.advance(linear, images, labels, state, 9))(state)
        np.testing.assert_allclose(sizes_of(norm, state.best - images), 0.05, rtol=SUM_ROUNDING)
        assert (state.best_loss >= begun).all()
        assert (state.best_loss > begun).any()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("norm", "L0", "expected (L1, )?L2 or Linf as the norm, got 'L0'"),
        ("steps", 0, "expected at least 1 step, got 0"),
        ("eps", 0.0, "expected eps above 0, got 0.0"),
        ("eps", float("nan"), "expected eps above 0, got nan"),
    ],
)
@pytest.mark.parametrize("name", ATTACKS)
def test_bad_settings_are_refused(name, field, value, message):
    with pytest.raises(UserError, match=message):
        ATTACKS[name](**{"eps": 0.1, "norm": "L2", "steps": 3, field: value})


def test_norms_have_one_form():
    assert {PGD(eps=0.1, norm=norm).norm for norm in ("linf", "inf", np.inf, "Linf")} == {"Linf"}
    assert AutoAttack(eps=0.5, norm="l2").parts(10)[0].attack.norm == "L2"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Restarted(attack=PGD(eps=0.1, norm="L2"), restarts=0),
        lambda: APGDT(eps=0.1, norm="L2", n_targets=0),
    ],
)
def test_attacks_that_never_run_are_refused(make):
    with pytest.raises(UserError, match="expected at least 1 restart or target, got 0"):
        make()


@pytest.mark.parametrize(("name", "needed"), [("apgd-dlr", 3), ("apgd-t", 4)])
def test_too_few_classes_are_refused(name, needed):
    images, labels = batch()
    with pytest.raises(UserError, match=f"expected a model of at least {needed} classes for {name}, got {needed - 1}"):
        ATTACKS[name](eps=0.1, norm="L2", steps=3)(lambda x: linear(x)[:, : needed - 1], images, labels * 0)


@pytest.mark.parametrize("target", [4, 20, -1, 1.5])
def test_targets_that_there_are_none_of_are_refused(target):
    images, labels = batch()
    attack = APGD(eps=0.1, norm="L2", steps=2, loss="targeted_dlr")
    object.__setattr__(attack, "target", target)
    with pytest.raises(UserError, match=rf"^expected a target from 0 to 3, of a model of 5 classes, got {target}$"):
        attack(linear, images, labels)
    attack.with_settings(target=3).check(K)


def test_losses_have_names():
    images, labels = batch()
    assert APGD(eps=5.0, norm="L2", steps=3, loss="margin")(linear, images, labels).success.all()
    attack = APGD(eps=5.0, norm="L2", steps=3)
    # As if made where types are not checked.
    object.__setattr__(attack, "loss", "carlini")
    with pytest.raises(UserError, match="expected one of cross_entropy, dlr, targeted_dlr, margin as the loss"):
        attack(linear, images, labels)


def test_what_rounding_decides_is_no_success():
    """The point is misclassified, by one unit in the last place; the image itself may be."""
    logits = jnp.array([[1.0, 1.0 + 2e-7], [1.0, 1.1]])
    images, labels = jnp.zeros((2, 1)), jnp.zeros(2, jnp.int32)
    attack = PGD(eps=1.0, norm="L2")
    nothing, _ = attack.initial_best(lambda x: jnp.array([1.0, 0.0]) + 0 * x, images, labels)
    np.testing.assert_array_equal(attack.update_best(nothing, images + 1, logits, labels).success, [False, True])
    np.testing.assert_array_equal(attack.update_best(nothing, images, logits, labels).success, [True, True])
