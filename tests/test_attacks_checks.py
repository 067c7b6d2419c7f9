"""What every attack takes, and the one line with which it refuses the rest."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import random_classifier

from advx_jax.analysis.attribution import SmoothGrad, attribute_images
from advx_jax.analysis.robust_accuracy import robust_accuracy
from advx_jax.analysis.robustness_area import boundary_distances
from advx_jax.attacks import (
    APGD,
    BEST,
    DDN,
    EXPLANATION,
    FMN,
    PGD,
    AutoAttack,
    CarliniWagner,
    FirstSuccess,
    Published,
    PublishedBounded,
    SmallestSuccess,
    SteepFMN,
    SuperDeepFool,
)
from advx_jax.attacks.checks import checked, checked_images, norm_named, number_of_classes
from advx_jax.errors import UserError
from advx_jax.networks.classifier import Classifier

N, K, SHAPE = 4, 3, (5, 6, 3)


def linear(images):
    return images.reshape(len(images), -1)[:, :K] * 2.0


def batch():
    images = np.random.default_rng(0).uniform(size=(N, *SHAPE)).astype(np.float32)
    return images, np.array([0, 1, 2, 1], np.int32)


IMAGES, LABELS = batch()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("place", [np.asarray, jnp.asarray, np.ndarray.tolist])
def test_images_of_any_precision_are_computed_in_float32(place, dtype):
    given = IMAGES.astype(jnp.dtype(dtype)) if place is not np.ndarray.tolist else IMAGES
    found = checked_images(place(given))
    assert found.dtype == np.float32
    assert isinstance(found, jax.Array) == (place is jnp.asarray)
    np.testing.assert_array_equal(found, np.asarray(given, np.float32))


def test_float64_stays_where_jax_computes_in_it():
    with jax.enable_x64(True):
        assert checked_images(IMAGES.astype(np.float64)).dtype == np.float64
        assert checked_images(IMAGES).dtype == np.float32


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "int8"])
@pytest.mark.parametrize("place", [np.asarray, jnp.asarray, np.ndarray.tolist])
def test_labels_of_any_integer_type_become_int32(place, dtype):
    with jax.enable_x64(dtype == "int64"):
        found = checked(linear, IMAGES, place(LABELS.astype(dtype)))
        assert found.labels.dtype == np.int32
        np.testing.assert_array_equal(found.labels, LABELS)
        assert found.n_classes == K


def test_rounding_out_of_the_unit_interval_is_no_other_scale():
    images = IMAGES.copy()
    images[0, 0, 0] = [-3e-8, 1 + 1e-7, 1 + 2.4e-7]
    np.testing.assert_array_equal(checked_images(images), images)


def with_pixel(value):
    images = IMAGES.copy()
    images[1, 2, 0, 1] = value
    return images


BAD_IMAGES = {
    "uint8": ((255 * IMAGES).astype(np.uint8), r"expected images as floating-point .* got uint8: divide by 255"),
    "int32": (np.zeros((N, *SHAPE), np.int32), r"expected images as floating-point numbers in \[0,1\], got int32$"),
    "0-255": (255 * IMAGES, r"expected images in \[0,1\], got values from 0.* to 25.*: divide by 255"),
    "normalised": (IMAGES * 4 - 2, r"expected images in \[0,1\], got values from -1.*: let the classifier do what"),
    "one pixel": (with_pixel(1.5), r"expected images in \[0,1\], got values from .* to 1.5"),
    "a little": (with_pixel(-1e-5), r"expected images in \[0,1\], got values from -1e-05 to"),
    "NaN": (with_pixel(np.nan), r"expected images in \[0,1\], got NaN in them"),
    "infinite": (with_pixel(np.inf), r"expected images in \[0,1\], got values from .* to inf"),
    "none": (IMAGES[:0], r"expected at least 1 image, got an array of shape \(0, 5, 6, 3\)"),
    "one number": (np.float32(0.5), r"expected images of shape \(batch, height, width, channels\), got \(\)"),
    "channels first": (
        IMAGES.transpose(0, 3, 1, 2),
        r"got \(4, 3, 5, 6\) with channels first: pass images.transpose\(0, 2, 3, 1\)",
    ),
    "words": ("images", "expected images as .*, got "),
    "ragged": ([[0.5], [0.5, 0.5]], "expected images as an array of numbers, got list"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_images_that_give_wrong_answers_are_refused(name):
    images, message = BAD_IMAGES[name]
    with pytest.raises(UserError, match=message) as caught:
        checked(linear, images, LABELS)
    assert "\n" not in str(caught.value)
    if isinstance(images, np.ndarray) and images.dtype == np.float32:
        with pytest.raises(UserError, match=message):
            checked(linear, jnp.asarray(images), LABELS)


BAD_LABELS = {
    "float": (LABELS.astype(np.float32), "expected labels as integers, got float32"),
    "one-hot": (np.eye(K, dtype=np.int32)[LABELS], r"class numbers, got shape \(4, 3\) as if one-hot.*argmax"),
    "too few": (LABELS[:3], r"expected one label for each of 4 images, got labels of shape \(3,\)"),
    "one": (1, r"expected one label for each of 4 images, got labels of shape \(\)"),
    "too large": (LABELS + 1, "expected labels from 0 to 2, got 3"),
    "negative": (LABELS - 1, "expected labels from 0 to 2, got -1"),
    "wraps around": (np.array([0, 1, 2, 2**32], np.int64), f"expected labels from 0 to 2, got {2**32}"),
    "truth values": (LABELS > 0, "expected labels as integers, got bool"),
    "names": (["cat", "dog", "cat", "dog"], "expected labels as integers, got <U3"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
def test_labels_that_are_no_classes_are_refused(name):
    labels, message = BAD_LABELS[name]
    with pytest.raises(UserError, match=message):
        checked(linear, IMAGES, labels)
    with pytest.raises(UserError, match=message.replace("label", "target")):
        checked(linear, IMAGES, labels, "target")


class Training(nnx.Module):
    def __init__(self):
        self.layer = nnx.Linear(K, K, rngs=nnx.Rngs(0))
        self.norm = nnx.BatchNorm(K, rngs=nnx.Rngs(0))

    def __call__(self, images):
        return self.layer(self.norm(images).mean((1, 2)))


def channels_first(images):
    return jax.lax.conv(images, jnp.ones((K, 3, 5, 6), images.dtype), (1, 1), "VALID")[:, :, 0, 0]


def half_only(images):
    return jax.lax.conv(images, jnp.ones((K, 5, 6, 3), jnp.bfloat16), (1, 1), "VALID")[:, :, 0, 0]


BAD_CLASSIFIERS = {
    "tuple": (lambda x: (linear(x), x), "expected a classifier that gives one array of logits, got a tuple"),
    "dict": (lambda x: {"logits": linear(x), "features": x}, "got a dict of features, logits|got a dict of logits"),
    "one logit": (lambda x: linear(x)[:, :1], r"at least 2 classes from the classifier, got 1: a single logit z"),
    "no class axis": (lambda x: linear(x)[:, 0], r"expected logits of shape \(4, classes\) from .* got \(4,\)"),
    "image axes": (lambda x: x, r"expected logits of shape \(4, classes\) from .* got \(4, 5, 6, 3\)"),
    "one for all": (lambda x: linear(x).mean(0, keepdims=True), r"shape \(4, classes\) .* got \(1, 3\)"),
    "classes": (lambda x: linear(x).argsort(-1), "expected logits as floating-point numbers .* got int32"),
    "no function": (7, "expected a function from images to logits, got int"),
    "channels first": (channels_first, r"got one with channels first: pass lambda x: f\(x.transpose\(0, 3, 1, 2\)\)"),
    "half only": (half_only, r"got one that takes bfloat16 only: pass lambda x: f\(x.astype\('bfloat16'\)\)"),
    "other shape": (
        lambda x: x.reshape(N, 7) @ jnp.ones((7, K)),
        r"takes float32 images of shape .*, got from it TypeError: ",
    ),
    "training mode": (Training(), r"evaluation mode, got one that is in training mode: call its eval\(\)"),
}


@pytest.mark.parametrize("name", BAD_CLASSIFIERS)
def test_functions_that_give_no_logits_are_refused(name):
    classifier, message = BAD_CLASSIFIERS[name]
    with pytest.raises(UserError, match=message) as caught:
        checked(classifier, IMAGES, LABELS)
    assert "\n" not in str(caught.value)


def test_module_in_evaluation_mode_is_taken():
    module = Training()
    module.eval()
    assert number_of_classes(module, IMAGES) == K


def test_channel_first_images_are_found_by_the_classifier_too():
    images = np.full((N, 5, 6, 7), 0.5, np.float32)
    with pytest.raises(UserError, match=r"got images of shape \(4, 5, 6, 7\): pass images.transpose\(0, 2, 3, 1\)"):
        checked(
            lambda x: x.reshape(-1, 42, 5).mean(1) + jnp.ones((N, 6, 7, 5))[:, 0, 0] + 0 * x[:, 0, 0], images, LABELS
        )


def test_single_image_is_told_from_a_batch():
    with pytest.raises(UserError, match=r"got an image of shape \(5, 6, 3\) without a batch: pass images\[None\]"):
        checked(lambda x: x[:, 0, 0, :], IMAGES[0], LABELS[:1])


def test_arguments_of_compiled_code_are_not_looked_at_but_for_their_shapes():
    @jax.jit
    def compiled(images, labels):
        return checked(linear, images, labels)[:2]

    images, labels = compiled(with_pixel(1.5), LABELS + 1)
    np.testing.assert_array_equal(images, with_pixel(1.5))
    np.testing.assert_array_equal(labels, LABELS + 1)
    with pytest.raises(UserError, match="expected one label for each of 4 images"):
        compiled(IMAGES, LABELS[:3])
    for constant in (with_pixel(1.5), jnp.asarray(with_pixel(1.5))):
        with pytest.raises(UserError, match="expected images in"):
            jax.jit(functools.partial(lambda images, labels: checked(linear, images, labels)[0], constant))(LABELS)
    mapped = jax.vmap(lambda labels: checked(linear, jnp.asarray(IMAGES), labels)[1])(jnp.stack([LABELS, LABELS]))
    assert mapped.shape == (2, N)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        *((name, "L2") for name in ("L2", "l2", "2", 2, 2.0, np.int64(2))),
        *((name, "Linf") for name in ("Linf", "linf", "inf", "l_inf", "L-inf", "LINF", np.inf, float("inf"))),
    ],
)
def test_norms_have_many_names(given, meant):
    assert norm_named(given) == meant


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("L1", "L1"),
        ("l_1", "L1"),
        (1, "L1"),
        ("1", "L1"),
        ("l0", "L0"),
        (0, "L0"),
        (np.float32(0), "L0"),
        (1.5, "L1.5"),
    ],
)
def test_other_norms_are_taken_by_those_that_know_them(given, meant):
    assert norm_named(given, ("L0", "L1", "L1.5")) == meant
    with pytest.raises(UserError, match="expected L2 as the norm of ddn, got"):
        norm_named(given, ("L2",), "ddn")


@pytest.mark.parametrize("name", ["L1", 1, 0, "", None, "max", float("nan"), True])
def test_other_norms_are_refused(name):
    with pytest.raises(UserError, match=f"expected L2 or Linf as the norm, got {name!r}"):
        norm_named(name)


def test_first_look_costs_no_pass_through_the_network():
    def counting(images):
        jax.debug.callback(lambda: calls.append(1))
        return linear(images)

    calls = []
    checked(functools.partial(counting), IMAGES, LABELS)
    jax.effects_barrier()
    assert not calls


def test_later_looks_at_a_network_read_none_of_its_numbers(monkeypatch):
    """Small calls would take as long for its digest as for their work."""
    digests = []
    monkeypatch.setattr(Classifier, "fingerprint", lambda classifier: digests.append(1) or "")
    classifier, images = random_classifier(), np.zeros((2, 32, 32, 3), np.float32)
    assert number_of_classes(classifier, images) == classifier.n_classes
    first = len(digests)
    assert number_of_classes(classifier, images) == classifier.n_classes
    assert len(digests) == first
    with pytest.raises(UserError, match="expected"):
        number_of_classes(classifier, images[..., :1])


BAD_SETTINGS = {
    "momentum of 1": (lambda: Published(momentum=1.0), "expected momentum of at least 0 and below 1, got 1.0"),
    "negative momentum": (lambda: Published(momentum=-0.1), "expected momentum of at least 0 and below 1"),
    "no steps": (lambda: Published(steps=0), "expected at least 1 step, got 0"),
    "half a step": (lambda: _unchecked(Published, steps=2.5), "expected a whole number as steps, got 2.5"),
    "eps of 0": (lambda: PublishedBounded(eps=0.0), "expected eps above 0, got 0.0"),
    "negative eps": (lambda: PGD(eps=-0.1, norm="L2"), "expected eps above 0, got -0.1"),
    "NaN as eps": (lambda: PGD(eps=float("nan"), norm="L2"), "expected eps above 0, got nan"),
    "no overshoot": (lambda: Published(overshoot=0.0), "expected overshoot above 0, got 0.0"),
    "direction": (lambda: _unchecked(Published, direction="up"), "expected cross_entropy or scale_free as direction"),
    "pixel levels": (lambda: PGD(eps=8.0, norm="inf"), r"expected eps of at most 1 in Linf, .* is 8.0/255 meant\?"),
    "norm": (lambda: PGD(eps=0.1, norm="L1"), "expected L2 or Linf as the norm, got 'L1'"),
    "an ensemble's norm": (lambda: AutoAttack(eps=0.1, norm="max"), "expected L1, L2 or Linf as the norm, got 'max'"),
    "FMN's norm": (lambda: FMN(norm=3), "expected L0, L1, L2 or Linf as the norm, got 3"),
    "DDN's norm": (lambda: DDN(norm="Linf"), "expected L2 as the norm, got 'Linf'"),
    "FMN's gamma": (lambda: FMN(gamma=1.5), "expected gamma above 0 and below 1, got 1.5"),
    "FMN's step": (lambda: FMN(step_length=-1.0), "expected step_length above 0, got -1.0"),
    "FMN's height": (lambda: _unchecked(FMN, climb="hill"), "expected margin or log_odds as climb, got 'hill'"),
    "DDN's radius": (lambda: DDN(init_norm=0.0), "expected init_norm above 0, got 0.0"),
    "no steps of a run": (lambda: CarliniWagner(run_steps=0), "expected at least 1 step, got 0"),
    "C&W's weight": (lambda: CarliniWagner(init_weight=0.0), "expected init_weight above 0, got 0.0"),
    "no search": (lambda: SuperDeepFool(search_steps=-1), "expected at least 1 step, got -1"),
    "inertia": (lambda: SteepFMN(inertia=0.0), "expected inertia above 0 and at most 1, got 0.0"),
    "DDN's levels": (lambda: DDN(levels=1), "expected at least 2 grey levels, got 1"),
}


def _unchecked(make, **fields):
    """As if made where types are not checked, and then used."""
    attack = make()
    for name, value in fields.items():
        object.__setattr__(attack, name, value)
    attack.check()


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_settings_that_cannot_be_meant_are_refused_at_once(name):
    make, message = BAD_SETTINGS[name]
    with pytest.raises(UserError, match=message):
        make()


def test_settings_in_other_words_are_the_same():
    assert PGD(eps=0.1, norm="l2", steps=5) == PGD(eps=0.1, norm="L2", steps=5)
    assert FMN(norm="linf") == FMN(norm="Linf")
    # It measured the largest value and called it L2.
    assert FMN(norm="l2").size(jnp.ones((1, 4)))[0] == 2


ATTACKS = {
    "published": Published(steps=2),
    "bounded": PublishedBounded(steps=2),
    "explanation": EXPLANATION.replace(steps=2),
    "best": BEST.with_settings(steps=4),
    "apgd": APGD(eps=0.1, norm="L2", steps=2),
    "ensemble": FirstSuccess(attacks=(PGD(eps=0.1, norm="L2", steps=2),)),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_checks_what_it_is_given(name):
    """At the contract, so that a new attack does it too."""
    attack = ATTACKS[name]
    for images, message in (BAD_IMAGES[kind] for kind in ("uint8", "0-255", "NaN", "none", "channels first")):
        with pytest.raises(UserError, match=message):
            attack(linear, images, LABELS)
    what = "target" if name == "explanation" else "label"
    for labels, message in (BAD_LABELS[kind] for kind in ("float", "one-hot", "too few", "too large")):
        with pytest.raises(UserError, match=message.replace("label", what)):
            attack(linear, IMAGES, labels)
    for classifier, message in (BAD_CLASSIFIERS[kind] for kind in ("tuple", "one logit", "channels first")):
        with pytest.raises(UserError, match=message):
            attack(classifier, IMAGES, LABELS)


NO_KEYS = {
    "too few": (lambda: jax.random.split(jax.random.key(0), N - 1), f"a key for each of {N} images, got {N - 1} keys$"),
    "too many": (lambda: jax.random.split(jax.random.key(0), N + 1), f"a key for each of {N} images, got {N + 1} keys"),
    "a table": (lambda: jax.random.split(jax.random.key(0), (N, 2)), rf"got keys of shape \({N}, 2\)$"),
    "of old, too few": (lambda: jax.random.key_data(jax.random.split(jax.random.key(0), 2)), "got 2 keys$"),
    "numbers": (lambda: np.zeros(N, np.float32), rf"expected a key .*, got an array of float32 of shape \({N},\)$"),
    "a seed": (lambda: 7, r"expected a key such as jax.random.key\(0\), got 7$"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", NO_KEYS)
def test_every_image_has_a_key_or_all_have_one(name):
    """At one place, for attacks, attributions, metrics and analyses alike."""
    make, message = NO_KEYS[name]
    smooth = SmoothGrad(samples=2)
    for call in (
        lambda key: ATTACKS["apgd"](linear, IMAGES, LABELS, key),
        lambda key: boundary_distances(linear, IMAGES, LABELS, ATTACKS["best"], key),
        lambda key: robust_accuracy(linear, IMAGES, LABELS, ATTACKS["apgd"], key),
        lambda key: smooth(linear, IMAGES, LABELS, key),
        lambda key: attribute_images(linear, IMAGES, LABELS, smooth, key),
    ):
        with pytest.raises(UserError, match=message) as caught:
            call(make())
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["bounded", "best", "apgd"])
def test_what_simply_works_gives_the_same_answer(name):
    expected = ATTACKS[name](linear, IMAGES, LABELS)
    found = ATTACKS[name](linear, IMAGES.astype(np.float64), LABELS.tolist())
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("eps", [jnp.float32(-1), jnp.float32(jnp.nan), jnp.ones(2)])
def test_settings_made_of_arrays_are_refused_in_use(eps):
    for attack in (PGD(eps=0.1, norm="L2"), PublishedBounded(), AutoAttack(eps=0.1, norm="L2")):
        with pytest.raises(UserError, match=r"expected eps above 0, got|expected one number as eps, got an array"):
            dataclasses.replace(attack, eps=eps)(linear, IMAGES, LABELS)


def test_sizes_of_nothing_are_not_compared():
    with pytest.raises(UserError, match="expected at least 1 attack in smallest, got none"):
        SmallestSuccess(attacks=())(linear, IMAGES, LABELS)
