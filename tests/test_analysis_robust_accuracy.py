"""Attacks with a fixed budget in chunks, and the checks that come before them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advx_jax.analysis import robust_accuracy as module
from advx_jax.analysis.robust_accuracy import robust_accuracy, run_attack, sanity_checks
from advx_jax.analysis.segments import run_in_segments
from advx_jax.attacks import APGD, APGDT, FAB, FABT, PGD, AutoAttack, FirstSuccess, Restarted, Square, example_keys
from advx_jax.attacks.base import Part

SHAPE, N, K = (6, 6, 3), 10, 5
# The same float32 arithmetic in a chunk of another size.
ROUNDING = 1e-5


@jax.tree_util.Partial
def linear(images):
    weights = 4 * jax.random.normal(jax.random.key(0), (int(np.prod(SHAPE)), K))
    return (images - 0.5).reshape(images.shape[0], -1) @ weights


@pytest.fixture(scope="module")
def data():
    images = np.array(jax.random.uniform(jax.random.key(1), (N, *SHAPE)))
    return images, np.array(linear(images).argmax(-1), np.int32)


ATTACKS = {"pgd": PGD, "apgd-ce": APGD, "apgd-t": APGDT, "fab-t": FABT, "square": Square}


def attack(data, name, rows, run=0, eps=0.08, progress=None, spared=None, restarts=1, steps=6):
    images, labels = data
    made = Restarted(attack=ATTACKS[name](eps=eps, norm="L2", steps=steps), restarts=restarts)
    notes = [[].append if amounts is None else amounts.append for amounts in (progress, spared)]
    found = {}
    for places, part in run_attack(
        linear, images, labels, np.arange(len(labels)) + 100, made.parts(K)[run], jax.random.key(0), rows, *notes
    ):
        found |= {int(place): fields for place, *fields in zip(places, *part, strict=True)}
    return [np.array([found[i][field] for i in range(len(labels))]) for field in range(4)]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) for name in ("apgd-ce", "apgd-t", "fab-t", "square")]
)
def test_other_chunks_give_the_same_results(name, data):
    images, labels = data
    broken, predicted, distance, adversarial = attack(data, name, 4)
    other = attack(data, name, 3)
    np.testing.assert_array_equal(broken, other[0])
    np.testing.assert_array_equal(predicted, other[1])
    np.testing.assert_allclose(adversarial, other[3], atol=ROUNDING)
    np.testing.assert_array_equal(predicted != labels, broken)
    np.testing.assert_array_equal(np.asarray(linear(jnp.asarray(adversarial)).argmax(-1)), predicted)
    size = np.sqrt(np.square(adversarial - images).sum((1, 2, 3)))
    np.testing.assert_allclose(distance[broken], size[broken], atol=ROUNDING)
    assert np.isinf(distance[~broken]).all()
    assert (size <= 0.08 + ROUNDING).all()


def test_targets_change_with_the_run(data):
    first, second = attack(data, "apgd-t", 5), attack(data, "apgd-t", 5, run=1)
    assert (first[3] != second[3]).any()


def test_a_restart_has_the_same_target_and_other_draws(data):
    assert (attack(data, "pgd", 5)[3] != attack(data, "pgd", 5, run=1, restarts=2)[3]).any()
    parts = Restarted(attack=APGDT(eps=0.08, norm="L2", n_targets=2), restarts=2).parts(K)
    assert [part.attack.target for part in parts] == [0, 1, 0, 1]


def test_an_attack_that_loses_its_way_says_so(data):
    @jax.custom_jvp
    def lost(x):
        return x

    # What it computes is finite, its slope is not.
    lost.defjvp(lambda primals, tangents: (primals[0], tangents[0] * jnp.nan))
    images, labels = data
    apgd, key = Part(APGD(eps=0.08, norm="L2", steps=6), ()), jax.random.key(0)
    ((_, part),) = run_attack(lambda x: lost(linear(x)), images, labels, np.arange(N), apgd, key, N)
    assert not part.success.any()
    assert not part.finite.any()


@pytest.mark.parametrize("eps", [1e-6, 5.0])
def test_progress_adds_up_also_where_all_are_broken_early(eps, data):
    progress, spared = [], []
    broken = attack(data, "apgd-ce", 4, eps=eps, progress=progress, spared=spared, steps=80)[0]
    assert broken.all() == (eps == 5.0)
    assert sum(progress) + sum(spared) == pytest.approx(N)
    assert (sum(spared) > 0) == (eps == 5.0)


def test_sanity_checks_find_nothing_wrong_with_a_linear_classifier(data):
    images, labels = data
    wrong = labels.copy()
    wrong[3] = (wrong[3] + 1) % K
    checks = sanity_checks(linear, images, wrong)
    np.testing.assert_array_equal(checks.correct, np.arange(N) != 3)
    assert checks.finite.all()
    assert not (checks.flat | checks.random | checks.normalised).any()


def test_sanity_checks_take_masked_classes_for_none(data):
    images, labels = data
    checks = sanity_checks(lambda x: jnp.pad(linear(x), ((0, 0), (0, 2)), constant_values=-jnp.inf), images, labels)
    assert checks.correct.all()
    assert checks.finite.all()
    assert not (checks.flat | checks.random).any()


def test_sanity_checks_see_what_misleads_attacks(data):
    images, labels = data
    assert sanity_checks(lambda x: jnp.round(linear(x)), images, labels).flat.all()
    softmax = sanity_checks(lambda x: jax.nn.softmax(linear(x)), images, labels)
    assert softmax.normalised.all()
    assert not softmax.random.any()
    checks = sanity_checks(lambda x: linear(x) / (x[:, 0, 0, :1] != images[2, 0, 0, 0]), images, labels)
    np.testing.assert_array_equal(checks.finite, np.arange(N) != 2)
    np.testing.assert_array_equal(checks.correct, np.arange(N) != 2)


def test_sanity_checks_see_a_random_network(data, monkeypatch):
    images, labels = data
    again = jax.jit(lambda f, x: f(x) + 0.01)
    monkeypatch.setattr(module, "_logits", again)
    assert sanity_checks(linear, images, labels).random.all()


@pytest.mark.parametrize("make", [APGD, *(pytest.param(make, marks=pytest.mark.slow) for make in (FABT, AutoAttack))])
def test_robust_accuracy_is_what_an_ensemble_leaves(make, data):
    """Part by part on those that still stand, or all at once on all: the same images are broken."""
    images, labels = data
    wrong = labels.copy()
    wrong[3] = (wrong[3] + 1) % K
    whole = make(eps=0.08, norm="L2") if make is not AutoAttack else _short_autoattack(0.08)
    done = []
    left = robust_accuracy(linear, images, wrong, whole, on_progress=done.append)
    assert left == 1 - np.mean(whole(linear, images, wrong).success)
    assert 0 < left < 0.9
    assert sum(done) == pytest.approx(N)


def _short_autoattack(eps):
    ball = {"eps": eps, "norm": "L2", "steps": 4}
    return FirstSuccess(attacks=(APGD(**ball), FAB(**ball), Square(**ball)))


def test_images_may_have_keys_of_their_own(data, monkeypatch):
    """Those that one key gives are taken by their places, in chunks and where only some images are left."""
    images, labels = data
    weak = FirstSuccess(attacks=(PGD(eps=0.05, norm="L2", steps=1), Square(eps=0.3, norm="L2", steps=3)))
    drawn = []

    def noted(worker, attack, x, y, keys, *notes):
        drawn.extend(map(tuple, np.asarray(jax.random.key_data(keys)).tolist()))
        return run_in_segments(worker, attack, x, y, keys, *notes)

    monkeypatch.setattr(module, "run_in_segments", noted)
    key, found = jax.random.key(3), []
    for given in (key, example_keys(key, jnp.arange(N))):
        left = robust_accuracy(linear, images, labels, weak, given)
        # Lanes finish in any order.
        found.append((left, sorted(drawn)))
        drawn.clear()
    assert found[0] == found[1]
    assert len(set(found[0][1])) > N
