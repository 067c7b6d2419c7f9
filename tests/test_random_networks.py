"""Random networks: what they are, who takes them, and attacks by expectation over transformation."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parametrised import some
from processes import fail, succeed

import advx_jax as ax
from advx_jax.analysis.robust_accuracy import run_attack, sanity_checks
from advx_jax.analysis.segments import attack_segments
from advx_jax.attacks import APGD, FAB, AutoAttack, PhasedAPGD, Square, example_keys
from advx_jax.attacks.base import Part
from advx_jax.attacks.eot import mean_loss_and_gradient
from advx_jax.attacks.passes import total_passes

SHAPE, N, K = (6, 6, 3), 64, 3
D = int(np.prod(SHAPE))
REFUSED = "expected a network that gives equal logits for equal images, got a random one"
WEIGHTS = np.random.default_rng(0).normal(size=(D, K)).astype(np.float32)
LABELS = jnp.arange(N, dtype=jnp.int32) % K
# Each class's images lie where its weights point, so that noise alone seldom moves them over the boundary.
IMAGES = 0.5 + 0.04 * np.sign(WEIGHTS - WEIGHTS.mean(1, keepdims=True))[:, np.arange(N) % K].T.reshape(N, *SHAPE)
IMAGES = jnp.asarray(IMAGES + np.random.default_rng(1).normal(0, 0.02, IMAGES.shape), jnp.float32)
KEYS = example_keys(jax.random.key(5), jnp.arange(N))


def per_image(keys, shape):
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def noisy_images(sigma, images, keys):
    """A linear classifier behind noise of its own."""
    noisy = images - 0.5 + sigma * per_image(keys, images.shape[1:])
    return noisy.reshape(len(images), -1) @ WEIGHTS


def noisy_weights(images, keys):
    """One whose gradient is mostly noise."""
    weights = WEIGHTS + 3 * per_image(keys, (D, K))
    return jnp.einsum("nd,ndk->nk", images.reshape(len(images), -1) - 0.5, weights)


NOISY = ax.from_random_function(functools.partial(noisy_images, 0.1))
MASKED = ax.from_random_function(noisy_weights)


def test_with_keys_it_is_an_ordinary_function_of_images():
    drawn = NOISY.drawn(KEYS)
    np.testing.assert_array_equal(drawn(IMAGES), noisy_images(0.1, IMAGES, KEYS))
    np.testing.assert_array_equal(drawn(IMAGES), NOISY.drawn(KEYS)(IMAGES))
    assert (drawn(IMAGES) != NOISY.drawn(KEYS[::-1])(IMAGES)).any()
    with pytest.raises(ax.UserError, match=f"^expected a key for each of {N} images, got 2$"):
        NOISY.drawn(KEYS[:2])(IMAGES)
    halved = ax.normalized(NOISY, (0.5, 0.5, 0.5), (2.0, 2.0, 2.0))
    assert isinstance(halved, ax.RandomClassifier)
    np.testing.assert_array_equal(halved.drawn(KEYS)(IMAGES), drawn((IMAGES - 0.5) / 2))
    assert isinstance(ax.from_function(NOISY, ("a", "b", "c")), ax.RandomClassifier)
    assert "RandomClassifier(partial)" in repr(NOISY)


def test_equal_random_networks_have_equal_fingerprints():
    def known(sigma):
        return ax.from_random_function(functools.partial(noisy_images, sigma)).of_images(SHAPE, K).fingerprint()

    assert known(0.1) == known(0.1) != known(0.2)


REFUSALS = {
    "a call": lambda: NOISY(IMAGES),
    "accuracy": lambda: ax.accuracy(NOISY, IMAGES, LABELS),
    "distances": lambda: ax.boundary_distances(NOISY, IMAGES, LABELS),
    "explanations": lambda: ax.explain_images(NOISY, IMAGES[:2]),
    "attributions": lambda: ax.attribute_images(NOISY, IMAGES, LABELS, ax.attribution.IntegratedGradients()),
    "FAB": lambda: FAB(eps=0.1, norm="L2")(NOISY, IMAGES, LABELS),
    "PGD": lambda: ax.attacks.PGD(eps=0.1, norm="L2")(NOISY, IMAGES, LABELS),
    "minimal APGD": lambda: ax.attacks.MinimalAPGD()(NOISY, IMAGES, LABELS),
    "accuracy under Square": lambda: ax.robust_accuracy(NOISY, IMAGES, LABELS, Square(eps=0.1, norm="L2")),
    "accuracy under standard": lambda: ax.robust_accuracy(NOISY, IMAGES, LABELS, AutoAttack(eps=0.1, norm="L2")),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_all_else_refuses_it_in_one_line(what):
    with pytest.raises(ax.UserError, match=REFUSED) as refusal:
        REFUSALS[what]()
    assert "\n" not in str(refusal.value)
    assert "AutoAttack(version='rand')" in str(refusal.value)


def test_draws_must_come_from_the_images_own_key():
    # Whatever the number of images, the first key is another image's.
    shared = ax.from_random_function(
        lambda images, keys: noisy_images(0.1, images, jnp.broadcast_to(keys[:1], keys.shape))
    )
    with pytest.raises(ax.UserError, match=r"draw for each image by the image's own key$"):
        ax.robust_accuracy(shared, IMAGES, LABELS, APGD(eps=0.1, norm="L2"))
    with pytest.raises(ax.UserError, match=r"^expected a function from images and keys to logits, got OwnClassifier"):
        ax.from_random_function(ax.from_function(lambda images: images.mean((1, 2))))


def test_the_mean_gradient_nears_that_of_the_expected_loss():
    """Two classes, whose margin under the noise is normal: what is expected is an integral over one number."""
    sigma, weights = 0.3, 0.5 * (WEIGHTS[:, 0] - WEIGHTS[:, 1])
    images = IMAGES[:4]

    def logits(images, keys):
        margin = (images - 0.5 + sigma * per_image(keys, SHAPE)).reshape(len(images), -1) @ weights
        return jnp.stack([margin, 0 * margin], -1)

    model, labels = ax.from_random_function(logits), jnp.zeros(4, jnp.int32)
    points, shares = np.polynomial.hermite_e.hermegauss(200)
    margins = (images - 0.5).reshape(4, -1) @ weights
    spread = sigma * np.linalg.norm(weights)
    falls = (1 / (1 + np.exp(margins[:, None] + spread * points))) @ shares / shares.sum()
    expected = -(falls[:, None] * weights).reshape(4, *SHAPE)
    losses = np.logaddexp(0, -(margins[:, None] + spread * points)) @ shares / shares.sum()

    @jax.jit
    def after(begin, keys):
        return [
            mean_loss_and_gradient("cross_entropy", model, images, labels, labels, False, keys, begin, draws)[:2]
            for draws in (1, 16, 4096)
        ]

    errors = []
    found = after(jnp.zeros((), jnp.int32), KEYS[:4])
    for _, gradient in found:
        errors.append(float(np.abs(gradient - expected).max() / np.abs(weights).max()))
    # A draw's share of the slope lies between 0 and 1, so that the mean of 4096 is off by less than 4 · 0.5/64.
    assert errors[2] < 4 * 0.5 / 64 < errors[0]
    assert errors[1] < 4 * 0.5 / 4
    np.testing.assert_allclose(found[2][0], losses, atol=4 * losses.max() / 64)
    # Other draws, by their numbers.
    other = after(jnp.full((), 5000), KEYS[:4])
    assert (np.asarray(other[0][1]) != np.asarray(found[0][1])).any()


ATTACKS = {
    "one draw": APGD(eps=0.3, norm="L2", steps=4),
    "three draws": APGD(eps=0.03, norm="Linf", steps=4, eot=3, loss="dlr"),
    "phases": PhasedAPGD(eps=2.0, norm="L1", steps=5, eot=2),
}


@some("name", ATTACKS, by_default=("three draws",))
def test_an_images_result_depends_on_its_key_alone(name):
    attack = ATTACKS[name]
    run = jax.jit(lambda images, labels, keys: attack(NOISY, images, labels, keys))
    whole = run(IMAGES, LABELS, KEYS)
    jax.tree.map(np.testing.assert_array_equal, run(IMAGES, LABELS, KEYS), whole)
    order = np.random.default_rng(0).permutation(N)[:5]
    part = run(IMAGES[order], LABELS[order], KEYS[order])
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other[order], atol=1e-6), part, whole)
    other = run(IMAGES, LABELS, KEYS[::-1])
    assert (np.asarray(other.adversarial) != np.asarray(whole.adversarial)).any()
    assert 0 < whole.success.sum() < N
    assert (np.asarray(whole.evaluations) == attack.evaluations).all()
    assert (np.asarray(whole.first_success) <= attack.evaluations).all()
    np.testing.assert_array_equal(whole.adversarial[~whole.success], IMAGES[~whole.success])


def test_a_success_is_judged_by_a_draw_that_led_to_no_point():
    """A network that misclassifies at random whatever the image: as many images are broken as it misclassifies."""

    def chance(images, keys):
        wrong = jax.vmap(jax.random.bernoulli, (0, None))(keys, 0.25)
        own = jnp.where(wrong, -1.0, 1.0) + 0 * images.sum((1, 2, 3))
        return jnp.stack([own, 0 * own], -1)

    many = np.zeros((800, 1, 1, 1), np.float32) + 0.5
    attack = APGD(eps=0.1, norm="Linf", steps=3, eot=8)
    found = jax.jit(attack.__call__)(ax.from_random_function(chance), many, np.zeros(800, np.int32))
    # A quarter, within four standard deviations; one of the 32 draws on the way was wrong for all but 0.01 %.
    assert abs(float(found.success.mean()) - 0.25) < 4 * (0.25 * 0.75 / 800) ** 0.5


@pytest.mark.slow
def test_several_draws_find_what_one_does_not():
    broken = {}
    for eot in (1, 20):
        attack = APGD(eps=0.5, norm="L2", steps=5, eot=eot)
        broken[eot] = float(jax.jit(attack.__call__)(MASKED, IMAGES, LABELS, KEYS).success.mean())
    print(broken)
    # Far beyond four standard deviations of the difference of two shares of 64.
    assert broken[20] > broken[1] + 4 * (2 * 0.25 / N) ** 0.5


def test_a_network_without_draws_is_attacked_as_ever():
    attack = APGD(eps=0.5, norm="L2", steps=4)

    def model(images):
        return (images - 0.5).reshape(len(images), -1) @ WEIGHTS

    def work(images, state):
        return attack.step(model, images, LABELS, state)

    state = jax.eval_shape(lambda: attack.init(model, IMAGES, LABELS, KEYS))
    assert state.keys is None
    program = str(jax.make_jaxpr(work)(IMAGES, state))
    assert "random" not in program
    assert "scan" not in program
    # With draws that are all equal the same images are broken, and one that was over before is its own.
    wrong = jnp.where(jnp.arange(N) == 3, (LABELS + 1) % K, LABELS)
    one, several = (
        jax.jit(attack.with_settings(eot=eot).__call__)(jax.tree_util.Partial(model), IMAGES, wrong, KEYS)
        for eot in (1, 3)
    )
    np.testing.assert_array_equal(one.success, several.success)
    np.testing.assert_array_equal(several.adversarial[3], IMAGES[3])


def test_passes_of_all_draws_are_counted():
    attack = AutoAttack(eps=0.5, norm="L2", version="rand")
    assert [part.attack.name for part in attack.parts(K)] == ["apgd-ce", "apgd-dlr"]
    passes = total_passes(attack, K, SHAPE)
    # Forward besides: the unperturbed images' draws, and the one that decides.
    assert passes == (attack.evaluations + 2 * 21, attack.evaluations) == (4082, 2 * 101 * 20)
    with pytest.raises(ax.UserError, match=r"^expected at least 1 draw, got 0$"):
        APGD(eps=0.5, norm="L2", eot=0).check()


def test_a_step_of_many_draws_is_a_segment():
    assert attack_segments(APGD(eps=0.5, norm="L2", steps=100)) == [25] * 4
    assert attack_segments(APGD(eps=0.5, norm="L2", steps=100, eot=20)) == [1] * 100


@pytest.mark.slow
def test_chunks_change_nothing():
    attack, key, indices = APGD(eps=0.4, norm="L2", steps=2, eot=2), jax.random.key(3), np.arange(12) + 100
    images, labels = np.asarray(IMAGES[:12]), np.asarray(LABELS[:12])
    found = []
    for rows in (3, 4):
        success = np.zeros(12, bool)
        chunks = run_attack(NOISY, images, labels, indices, Part(attack, (1,)), key, rows)
        for places, part in chunks:
            success[places] = part.success
            np.testing.assert_array_equal(part.predicted != labels[places], part.success)
        found.append(success)
    np.testing.assert_array_equal(*found)
    checks = [sanity_checks(NOISY, images, labels, rows, indices, key) for rows in (3, 12)]
    jax.tree.map(np.testing.assert_array_equal, *checks)
    assert checks[0].random.all()


@pytest.mark.slow
def test_robust_accuracy_is_of_one_draw_each():
    attack = APGD(eps=0.1, norm="L2", steps=2, eot=2)
    found = [ax.robust_accuracy(MASKED, IMAGES, LABELS, attack, jax.random.key(seed)) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert all(0.3 < accuracy < 1 for accuracy in found)


NETWORK = """
import jax
import jax.numpy as jnp
import advx_jax as ax


def noisy(images, keys):
    noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)
    weights = jax.random.normal(jax.random.key(0), (3, 10))
    return (images + 0.1 * noise).mean((1, 2)) @ weights


net = ax.from_random_function(noisy)
"""


def test_the_command_measures_one_and_goes_on(tmp_path):
    (tmp_path / "mine.py").write_text(NETWORK)
    flags = ("--model=mine:net", "--eps=2", "--version=rand", "--steps=2", "--output=found")
    out = succeed(tmp_path, "robustness", *flags, "--n_images=24")
    first = json.loads((tmp_path / "found" / "robustness.json").read_text())
    assert [attack["name"] for attack in first["attacks"]] == ["apgd-ce", "apgd-dlr"]
    assert first["settings"]["attack"] == "autoattack-rand"
    assert first["settings"]["random_network"] is True
    (line,) = (warning for warning in first["warnings"] if "random" in warning)
    assert f"warning: {line}" in out
    assert first["robust_accuracy"] < first["accuracy"]
    succeed(tmp_path, "robustness", *flags, "--n_images=28")
    second = json.loads((tmp_path / "found" / "robustness.json").read_text())
    assert second["stands"][:24] == first["stands"]
    assert second["correct"][:24] == first["correct"]
    message = fail(tmp_path, "robustness", *flags[:2], "--attack=square", "--n_images=4")
    assert REFUSED in message
