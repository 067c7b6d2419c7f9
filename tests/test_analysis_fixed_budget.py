"""Attacks with a fixed budget in chunks, and the checks that come before them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advx_jax.analysis import fixed_budget
from advx_jax.analysis.fixed_budget import attack_standing, check_stages, first_look, good_rows, n_runs
from advx_jax.attacks import Budget
from advx_jax.attacks.autoattack import STAGES, STANDARD, stage_targets
from advx_jax.errors import UserError

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


def attack(data, name, rows, run=0, eps=0.08, progress=None, spared=None, restarts=1, steps=6):
    images, labels = data
    stage = STAGES[name]._replace(steps=steps).restarted(restarts)
    notes = [[].append if amounts is None else amounts.append for amounts in (progress, spared)]
    budget = Budget(eps, "L2", stage.steps)
    found = {}
    for places, part in attack_standing(
        linear, images, labels, np.arange(len(labels)) + 100, stage, 0, run, budget, 0, rows, *notes
    ):
        found |= {int(place): fields for place, *fields in zip(places, *part, strict=True)}
    return [np.array([found[i][field] for i in range(len(labels))]) for field in range(4)]


@pytest.mark.parametrize("name", ["apgd-ce", "apgd-t", "fab-t", "square"])
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
    images, labels = data
    assert (attack(data, "pgd", 5)[3] != attack(data, "pgd", 5, run=1, restarts=2)[3]).any()
    stage = STAGES["apgd-t"]._replace(n_targets=2).restarted(2)
    targets = stage_targets(stage, linear(images), jnp.asarray(labels))
    assert len(targets) == n_runs(stage, K) == 4
    np.testing.assert_array_equal(targets[:2], targets[2:])


def test_an_attack_that_loses_its_way_says_so(data):
    @jax.custom_jvp
    def lost(x):
        return x

    # What it computes is finite, its slope is not.
    lost.defjvp(lambda primals, tangents: (primals[0], tangents[0] * jnp.nan))
    images, labels = data
    budget = Budget(0.08, "L2", 6)
    stage = STAGES["apgd-ce"]._replace(steps=6)
    ((_, part),) = attack_standing(lambda x: lost(linear(x)), images, labels, np.arange(N), stage, 0, 0, budget, 0, N)
    assert not part.broken.any()
    assert not part.finite.any()


@pytest.mark.parametrize("eps", [1e-6, 5.0])
def test_progress_adds_up_also_where_all_are_broken_early(eps, data):
    progress, spared = [], []
    broken = attack(data, "apgd-ce", 4, eps=eps, progress=progress, spared=spared, steps=80)[0]
    assert broken.all() == (eps == 5.0)
    assert sum(progress) + sum(spared) == pytest.approx(N)
    assert (sum(spared) > 0) == (eps == 5.0)


def test_first_look_finds_nothing_wrong_with_a_linear_classifier(data):
    images, labels = data
    wrong = labels.copy()
    wrong[3] = (wrong[3] + 1) % K
    seen = first_look(linear, images, wrong)
    np.testing.assert_array_equal(seen.correct, np.arange(N) != 3)
    assert seen.finite.all()
    assert not (seen.flat | seen.random | seen.normalised).any()


def test_first_look_sees_what_misleads_attacks(data):
    images, labels = data
    assert first_look(lambda x: jnp.round(linear(x)), images, labels).flat.all()
    softmax = first_look(lambda x: jax.nn.softmax(linear(x)), images, labels)
    assert softmax.normalised.all()
    assert not softmax.random.any()
    seen = first_look(lambda x: linear(x) / (x[:, 0, 0, :1] != images[2, 0, 0, 0]), images, labels)
    np.testing.assert_array_equal(seen.finite, np.arange(N) != 2)
    np.testing.assert_array_equal(seen.correct, np.arange(N) != 2)


def test_first_look_sees_a_random_network(data, monkeypatch):
    images, labels = data
    again = jax.jit(lambda f, x: f(x) + 0.01)
    monkeypatch.setattr(fixed_budget, "_logits", again)
    assert first_look(linear, images, labels).random.all()


def test_attacks_need_enough_classes():
    check_stages(STANDARD, 4)
    with pytest.raises(UserError, match="expected a network of at least 4 classes for apgd-t, got 3"):
        check_stages(STANDARD, 3)
    with pytest.raises(UserError, match="expected a network of at least 3 classes for apgd-dlr, got 2"):
        check_stages((STAGES["apgd-dlr"],), 2)
    assert [n_runs(stage, 10) for stage in STANDARD] == [1, 9, 9, 1]
    assert [n_runs(stage, 4) for stage in STANDARD] == [1, 3, 3, 1]
    assert [n_runs(stage.restarted(2), 4) for stage in STANDARD] == [2, 6, 3, 2]


@pytest.mark.parametrize("total", [1, 7, 64, 1000])
def test_chunks_of_few_images_left_are_smaller_but_of_few_sizes(total, monkeypatch):
    monkeypatch.setattr(fixed_budget, "lanes", lambda: jax.devices()[:1] * 2)
    sizes = [good_rows(standing, total) for standing in range(1, total + 1)]
    assert sizes == sorted(sizes)
    # Never one image alone, which is rounded in another way.
    assert sizes[0] == 2
    assert len(set(sizes)) <= 4
