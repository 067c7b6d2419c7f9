"""Classifiers that answer for more than the image alone, or for less, and inputs that fit no classifier."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from networks import TINY, random_classifier

from advx_jax.analysis import soundness
from advx_jax.analysis.accuracy import accuracy, predict
from advx_jax.analysis.explanations import Explanation, explain
from advx_jax.analysis.robust_accuracy import robust_accuracy, run_attack, sanity_checks
from advx_jax.analysis.robustness_area import boundary_distances, minimum_norm_distances
from advx_jax.analysis.soundness import NO_LOGITS, check_answers, check_fit
from advx_jax.attacks import APGD, EXPLANATION, FMN, PGD, Targeted
from advx_jax.attacks.base import Part
from advx_jax.data.image_set import CIFAR10_CLASSES, ImageSet
from advx_jax.errors import UserError
from advx_jax.messages import say_once
from advx_jax.networks.adapters import from_function
from advx_jax.networks.classifier import Classifier

SHAPE, N, K = (8, 8, 3), 5, 4
IMAGES = np.random.default_rng(0).uniform(size=(N, *SHAPE)).astype(np.float32)
LABELS = np.arange(N, dtype=np.int32) % K


class Linen(nn.Module):
    dtype: str | None = None
    layers: int = 1

    @nn.compact
    def __call__(self, x, train: bool = True):
        for _ in range(self.layers):
            x = nn.Conv(6, (3, 3), dtype=self.dtype)(x)
            x = nn.BatchNorm(use_running_average=not train, dtype=self.dtype)(x)
            x = nn.relu(x)
        x = nn.Dropout(0.1, deterministic=not train)(x.reshape(len(x), -1))
        return nn.Dense(K)(x)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(6, K, rngs=rngs)

    def __call__(self, x):
        return self.head(self.drop(nnx.relu(self.norm(self.conv(x))).mean((1, 2))))


def linen(**fields):
    network = Linen(**fields)
    return network, network.init(jax.random.key(0), IMAGES, train=False)


def linear(images):
    weights = jax.random.normal(jax.random.key(0), (int(np.prod(SHAPE)), K)) / 4
    return (images - 0.5).reshape(len(images), -1) @ weights


def norm_in_training_mode():
    network, variables = linen()

    def logits_fn(images):
        apply = jax.tree_util.Partial(network.apply, variables, mutable=["batch_stats"])
        return apply(images, rngs={"dropout": jax.random.key(1)})[0]

    return logits_fn


def dropout_with_one_key():
    weights = jax.random.normal(jax.random.key(0), (int(np.prod(SHAPE)), K))

    def logits_fn(images):
        dropped = nn.Dropout(0.1, deterministic=False).apply(
            {}, images.reshape(len(images), -1), rngs={"dropout": jax.random.key(1)}
        )
        return dropped @ weights

    return logits_fn


def softmax_over_the_batch():
    return lambda images: jax.nn.softmax(linear(images), axis=0)


def shrinking_with_the_batch():
    return lambda images: linear(images) / len(images)


def drawn_when_compiled():
    rng = np.random.default_rng(0)
    return lambda images: linear(images + 0.1 * rng.normal(size=SHAPE))


def counting():
    calls = itertools.count()
    return lambda images: linear(images) * (1 + next(calls))


def with_other_weights_since():
    weights = {"now": jnp.eye(int(np.prod(SHAPE)), K)}

    def logits_fn(images):
        return images.reshape(len(images), -1) @ weights["now"]

    predict(logits_fn, IMAGES)
    weights["now"] = -weights["now"]
    return logits_fn


def drawing_anew():
    rng = np.random.default_rng(0)
    shape = jax.ShapeDtypeStruct((), np.float32)

    def logits_fn(images):
        # Of no input, so that it has no gradient that could be missing.
        noise = jax.pure_callback(lambda: np.float32(rng.normal()), shape)
        return linear(images + 0.1 * noise)

    return logits_fn


EVALUATION = "expected logits that depend on their own image only.*evaluation mode.*model.eval()"
IMPURE = "expected a function of the images alone.*jax.tree_util.Partial"
CASES = {
    norm_in_training_mode: EVALUATION,
    dropout_with_one_key: EVALUATION,
    softmax_over_the_batch: EVALUATION,
    shrinking_with_the_batch: EVALUATION,
    drawn_when_compiled: IMPURE,
    counting: IMPURE,
    with_other_weights_since: IMPURE,
    drawing_anew: "expected equal logits for equal images, got other ones when asked again",
}


ANALYSES = {
    "explain": lambda f, x, y: list(explain(f, x, EXPLANATION.replace(steps=2))),
    "predict": lambda f, x, y: (accuracy(f, x, y), predict(f, x).classes),
    "boundary_distances": lambda f, x, y: boundary_distances(f, x, y, FMN(steps=2)),
    "robust_accuracy": lambda f, x, y: robust_accuracy(f, x, y, APGD(eps=0.1, norm="L2", steps=2)),
}


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_a_classifier_that_does_not_answer_for_the_image_alone_is_found(make):
    with pytest.raises(UserError, match=CASES[make]) as caught:
        check_answers(make(), IMAGES)
    assert "\n" not in str(caught.value)


def test_a_single_image_has_company_too():
    with pytest.raises(UserError, match=EVALUATION):
        check_answers(softmax_over_the_batch(), IMAGES[:1])


@pytest.mark.parametrize("name", ANALYSES)
def test_every_analysis_looks_first(name):
    with pytest.raises(UserError, match=EVALUATION):
        ANALYSES[name](softmax_over_the_batch(), IMAGES, LABELS)


def test_every_command_looks_first_at_an_own_classifier():
    """What they have in common, before any work."""
    classifier = from_function(softmax_over_the_batch(), tuple("abcd"), SHAPE).of_images(SHAPE, K)
    data = ImageSet((255 * IMAGES).astype(np.uint8), LABELS.astype(np.int64), tuple("abcd"), "a test")
    with pytest.raises(UserError, match=EVALUATION):
        check_fit(classifier, data)
    check_fit(classifier, ImageSet(data.images[:0], data.labels[:0], data.class_names, "no images"))


def test_a_softmax_at_the_end_is_told_of_once(capsys):
    say_once.cache_clear()
    for _ in range(2):
        check_answers(lambda images: jax.nn.softmax(linear(images)), IMAGES)
    assert capsys.readouterr().err == f"warning: {NO_LOGITS}\n"
    say_once.cache_clear()
    check_answers(linear, IMAGES)
    check_answers(lambda images: jax.nn.sigmoid(linear(images)), IMAGES)
    assert capsys.readouterr().err == ""


def test_a_random_classifier_is_told_of_where_that_is_what_is_asked():
    assert sanity_checks(drawing_anew(), IMAGES, LABELS).random.all()
    for name in ANALYSES:
        with pytest.raises(UserError, match="when asked again"):
            ANALYSES[name](drawing_anew(), IMAGES, LABELS)


def test_what_flax_says_of_a_network_in_training_mode_comes_with_the_remedy():
    network, variables = linen()
    with pytest.raises(UserError, match=r"evaluation mode.*use_running_average=True.*train=False"):
        predict(lambda images: network.apply(variables, images), IMAGES)
    dropout = nn.Dropout(0.1, deterministic=False)
    with pytest.raises(UserError, match=r"evaluation mode.*deterministic=True.*train=False"):
        predict(lambda images: linear(dropout.apply({}, images)), IMAGES)


def test_an_nnx_module_needs_eval_and_is_left_as_it_was():
    model = Nnx(nnx.Rngs(0))
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))
    for logits_fn in (model, lambda images: model(images)):
        with pytest.raises(UserError, match=r"eval\(\)"):
            predict(logits_fn, IMAGES)
    with pytest.raises(UserError, match=EVALUATION):
        check_answers(jax.jit(lambda images: nnx.clone(model)(images)), IMAGES)
    after = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    model.eval()
    expected = np.asarray(model(jnp.asarray(IMAGES))).argmax(-1)
    np.testing.assert_array_equal(predict(model, IMAGES).classes, expected)


@pytest.mark.parametrize(
    "dtype", [None, *(pytest.param(name, marks=pytest.mark.slow) for name in ("bfloat16", "float16"))]
)
def test_rounding_in_a_deep_network_is_no_dependence(dtype):
    """Seen, of the two largest logits: 1e-6 in float32, 2e-2 in bfloat16."""
    network, variables = linen(dtype=dtype, layers=12)
    check_answers(jax.tree_util.Partial(functools.partial(network.apply, train=False), variables), IMAGES)
    training = jax.tree_util.Partial(network.apply, variables, mutable=["batch_stats"])
    with pytest.raises(UserError, match=EVALUATION):
        check_answers(lambda images: training(images, rngs={"dropout": jax.random.key(1)})[0], IMAGES)


@pytest.mark.parametrize("dead", [-1e9, -np.inf, float(np.finfo(np.float32).min)])
def test_dead_classes_hide_no_dependence_and_are_none(dead):
    classes = jnp.arange(2 * K) % 2 == 0

    def masked(logits_fn):
        return lambda images: jnp.where(classes, jnp.repeat(logits_fn(images), 2, axis=1), dead)

    check_answers(masked(linear), IMAGES)
    with pytest.raises(UserError, match=EVALUATION):
        check_answers(masked(softmax_over_the_batch()), IMAGES)


def test_a_flag_among_the_arguments_is_told_of():
    """True and False are no numbers, and part of the code; 0 is one."""
    network, variables = linen()
    check_answers(jax.tree_util.Partial(network.apply, variables, train=False), IMAGES)
    with pytest.raises(UserError, match=r"functools\.partial\(network\.apply, train=False\)"):
        check_answers(jax.tree_util.Partial(network.apply, variables, train=0), IMAGES)


def test_logits_that_are_nan_are_nan_in_every_batch():
    check_answers(lambda images: linear(images) * jnp.nan, IMAGES)


BAD = {
    "one-hot": (IMAGES, np.eye(K)[LABELS], "expected labels|expected one label"),
    "beyond": (IMAGES, LABELS + 1, f"expected labels from 0 to {K - 1}, got {K}"),
    "negative": (IMAGES, LABELS - 1, f"expected labels from 0 to {K - 1}, got -1"),
    "float": (IMAGES, LABELS.astype(float), "expected labels as integers, got float64"),
    "too few": (IMAGES, LABELS[:-1], f"expected one label for each of {N} images"),
    "none for some": (IMAGES, LABELS[:0], f"expected one label for each of {N} images"),
    "for none": (IMAGES[:0], LABELS, "expected at least 1 image"),
    "bytes": ((255 * IMAGES).astype(np.uint8), LABELS, "expected images as floating-point numbers"),
    "out of range": (255 * IMAGES, LABELS, r"expected images in \[0,1\]"),
    "a pixel": (np.where(np.arange(N)[:, None, None, None] == 3, 1.5, IMAGES), LABELS, r"expected images in \[0,1\]"),
    "channels first": (
        np.random.default_rng(0).uniform(size=(N, 3, 32, 32)).astype("f4"),
        LABELS,
        "transpose",
    ),
    "one image": (IMAGES[0], LABELS[:1], "expected"),
    "text": ("cat.png", LABELS, "expected images"),
}


@pytest.mark.parametrize("analysis", ANALYSES)
@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_clear_line(case, analysis):
    images, labels, message = BAD[case]
    if analysis == "explain" and (labels is not LABELS or case == "for none"):
        pytest.skip("takes no labels")
    with pytest.raises(UserError, match=message) as caught:
        ANALYSES[analysis](linear, images, labels)
    assert "\n" not in str(caught.value)


def in_order(answers):
    if not isinstance(answers, list):
        return answers
    # Explanations are no pytrees: their fields are.
    plain = [[vars(part) if isinstance(part, Explanation) else part for part in answer] for answer in answers]
    return sorted(plain, key=lambda part: np.min(part[0]))


@pytest.mark.parametrize("analysis", ANALYSES)
def test_other_forms_of_good_input_give_the_same(analysis):
    expected = ANALYSES[analysis](linear, IMAGES, LABELS)
    forms = {
        "lists": (IMAGES.tolist(), LABELS.tolist()),
        "JAX and NumPy numbers": (jnp.asarray(IMAGES), list(LABELS)),
    }
    for name, (images, labels) in forms.items():
        found = ANALYSES[analysis](linear, images, labels)
        jax.tree.map(np.testing.assert_array_equal, in_order(expected), in_order(found)), name


def test_no_images_give_no_answers():
    images, labels = IMAGES[:0], LABELS[:0]
    for none in ((images, labels), ([], [])):
        assert ANALYSES["explain"](linear, *none) == []
        assert ANALYSES["boundary_distances"](linear, *none).shape == (0,)
        assert np.isnan(ANALYSES["robust_accuracy"](linear, *none))
    predicted = predict(linear, images)
    assert len(predicted.classes) == 0
    assert np.isnan([predicted.accuracy([]), predicted.loss([])]).all()
    assert all(len(field) == 0 for field in sanity_checks(linear, images, labels))
    part = Part(APGD(eps=0.1, norm="L2", steps=2), ())
    assert list(run_attack(linear, images, labels, np.arange(0), part, jax.random.key(0), 3)) == []
    assert list(minimum_norm_distances(linear, images, labels, FMN(steps=2))) == []


def test_attacks_that_cannot_work_with_the_model_are_refused():
    apgd = APGD(eps=0.1, norm="L2", steps=2, loss="dlr")
    with pytest.raises(UserError, match="expected a model of at least 3 classes for apgd-dlr, got 2"):
        robust_accuracy(lambda x: linear(x)[:, :2], IMAGES, 0 * LABELS, apgd)
    message = r"expected a criterion that leads away from labels for a robust accuracy, got Targeted\(\)"
    with pytest.raises(UserError, match=message):
        robust_accuracy(linear, IMAGES, LABELS, PGD(eps=0.1, norm="L2", steps=2, criterion=Targeted()))
    message = "expected an attack within an eps for a robust accuracy, got fmn: see boundary_distances"
    with pytest.raises(UserError, match=message):
        robust_accuracy(linear, IMAGES, LABELS, FMN(steps=2))


@pytest.mark.parametrize("analysis", ANALYSES)
def test_each_call_asks_once_whether_the_classifier_is_sound(analysis, monkeypatch):
    """However many passes, parts and chunks there are behind it."""
    calls = []
    monkeypatch.setattr(soundness, "check_answers", lambda *arguments: calls.append(arguments))
    ANALYSES[analysis](linear, IMAGES, LABELS)
    assert len(calls) == (2 if analysis == "predict" else 1)


def image_set(class_names):
    return ImageSet(np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1, np.int64), class_names, "a test")


def test_network_and_data_must_fit():
    classifier = random_classifier()
    check_fit(classifier, image_set(CIFAR10_CLASSES))
    with pytest.raises(UserError, match=r"expected a network for the data's 2 classes \(cat to dog\), got one of 10"):
        check_fit(classifier, image_set(("cat", "dog")))
    fewer = Classifier({}, dataclasses.replace(TINY, n_classes=3))
    with pytest.raises(
        UserError, match=r"expected a network for the data's 10 classes \(airplane to truck\), got one of 3"
    ):
        check_fit(fewer, image_set(CIFAR10_CLASSES))
