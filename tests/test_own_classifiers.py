"""Classifiers of one's own: adapters of real frameworks, what is found by name, what is refused with which remedy."""

import subprocess
import sys
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from networks import random_classifier
from parametrised import some

import advx_jax as ax
from advx_jax.analysis.soundness import fitted
from advx_jax.attacks.checks import number_of_classes
from advx_jax.errors import UserError
from advx_jax.networks.classifier import Provenance
from advx_jax.networks.own_code import own_classifier
from advx_jax.networks.registry import OwnModel, resolve_model

with warnings.catch_warnings():
    # It reads names that JAX is about to drop.
    warnings.simplefilter("ignore")
    import haiku as hk

SHAPE, K, N = (12, 10, 1), 3, 6
IMAGES = np.random.default_rng(0).uniform(size=(N, *SHAPE)).astype(np.float32)
LABELS = np.arange(N) % K
ONE = np.ones((1, K), np.float32)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x)))
        return nn.Dense(K)(nn.Dropout(0.5, deterministic=not train)(x.mean((1, 2))))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.conv, self.norm = nnx.Conv(1, 4, (3, 3), rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
        self.drop, self.head = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(4, K, rngs=rngs)

    def __call__(self, x):
        return self.head(self.drop(nnx.relu(self.norm(self.conv(x))).mean((1, 2))))


class Eqx(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    drop: eqx.nn.Dropout
    head: eqx.nn.Linear
    # A leaf that is no array.
    activation: object = jax.nn.relu

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.conv, self.head = eqx.nn.Conv2d(1, 4, 3, key=first), eqx.nn.Linear(4, K, key=second)
        self.norm, self.drop = eqx.nn.BatchNorm(4, "batch", mode="batch"), eqx.nn.Dropout(0.5)

    def __call__(self, x, state, *, key=None):
        x, state = self.norm(self.conv(x), state)
        return self.head(self.drop(self.activation(x).mean((1, 2)), key=key)), state


class PerExample(eqx.Module):
    head: eqx.nn.MLP

    def __call__(self, x):
        return self.head(x.reshape(-1))


def haiku_network(x, is_training=True):
    x = hk.BatchNorm(True, True, 0.9)(hk.Conv2D(4, 3)(x), is_training)
    x = jax.nn.relu(x).mean((1, 2))
    return hk.Linear(K)(hk.dropout(hk.next_rng_key(), 0.5, x) if is_training else x)


def linen_and_by_hand():
    module = Linen()
    variables = module.init(jax.random.key(0), IMAGES, train=False)
    return ax.from_linen(module, variables), lambda x: module.apply(variables, x, train=False)


def nnx_and_by_hand():
    module = Nnx(nnx.Rngs(0))
    adapted = ax.from_nnx(module)
    assert not module.drop.deterministic  # The module is left as it was.
    in_evaluation = Nnx(nnx.Rngs(0))
    in_evaluation.eval()
    return adapted, in_evaluation


def equinox_and_by_hand():
    module, state = eqx.nn.make_with_state(Eqx)(jax.random.key(0))
    evaluated = eqx.nn.inference_mode(module)
    return ax.from_equinox(module, state), lambda x: jax.vmap(lambda i: evaluated(i.transpose(2, 0, 1), state)[0])(x)


def haiku_and_by_hand():
    transformed = hk.transform_with_state(haiku_network)
    params, state = transformed.init(jax.random.key(0), IMAGES)
    by_hand = lambda x: transformed.apply(params, state, None, x, is_training=False)[0]  # noqa: E731
    return ax.from_haiku(transformed, params, state, is_training=False), by_hand


FRAMEWORKS = [linen_and_by_hand, nnx_and_by_hand, equinox_and_by_hand, haiku_and_by_hand]


@some("make", FRAMEWORKS, by_default=(linen_and_by_hand,))
def test_real_frameworks(make):
    adapted, by_hand = make()
    np.testing.assert_allclose(jax.jit(adapted)(IMAGES), by_hand(jnp.asarray(IMAGES)), rtol=1e-5, atol=1e-6)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(adapted))
    # In every analysis, and by an attack.
    assert ax.predict(adapted, IMAGES).logits.shape == (N, K)
    left = ax.robust_accuracy(adapted, IMAGES, LABELS, ax.attacks.PGD(eps=0.5, norm="L2", steps=2))
    assert 0 <= left <= ax.accuracy(adapted, IMAGES, LABELS)
    assert ax.explain_images(adapted, IMAGES[:1], attack=ax.attacks.EXPLANATION.with_settings(steps=2))[
        0
    ].rms.shape == (K,)


def known(classifier):
    return fitted(OwnModel(classifier, Provenance(name="x")), SHAPE).classifier


@pytest.mark.parametrize("make", FRAMEWORKS)
def test_fingerprints_tell_networks_apart(make):
    one, again = known(make()[0]), known(make()[0])
    assert one.fingerprint() == again.fingerprint()
    leaves, structure = jax.tree.flatten(one)
    moved = jax.tree.unflatten(structure, [leaf if _is_key(leaf) else leaf + 1 for leaf in leaves])
    assert moved.fingerprint() != one.fingerprint()
    assert (one.n_classes, one.image_shape) == (K, SHAPE)


def _is_key(leaf):
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def test_fingerprints_see_code_and_constants():
    def logits(weights, scale):
        inner = jax.jit(lambda x: jnp.tanh(x) @ weights)
        return lambda x: scale * inner(x.reshape(len(x), -1))

    weights = np.random.default_rng(0).normal(size=(120, K)).astype(np.float32)
    prints = [
        known(ax.from_function(logits(w, s))).fingerprint() for w, s in ((weights, 1), (weights, 2), (weights + 1, 1))
    ]
    assert len(set(prints)) == 3
    assert prints[0] == known(ax.from_function(logits(weights.copy(), 1))).fingerprint()


def with_gradient(scale):
    @jax.custom_vjp
    def identity(x):
        return x

    identity.defvjp(lambda x: (x, None), lambda _, cotangent: (scale * cotangent,))
    weights = jnp.ones((120, K)) * jnp.arange(K)
    return lambda x: identity(x.reshape(len(x), -1)) @ weights


def with_tangent(scale):
    @jax.custom_jvp
    def identity(x):
        return x

    identity.defjvp(lambda primals, tangents: (primals[0], scale * tangents[0]))
    weights = jnp.ones((120, K)) * jnp.arange(K)
    return lambda x: identity(x.reshape(len(x), -1)) @ weights


@pytest.mark.parametrize("make", [with_gradient, with_tangent])
def test_fingerprints_see_rules_for_gradients(make):
    prints = [known(ax.from_function(make(scale))).fingerprint() for scale in (1.0, -1.0, 1.0)]
    assert prints[0] == prints[2] != prints[1]


def test_a_model_without_a_gradient_has_a_fingerprint():
    def counted(x):
        return jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] * 1.5), (0, x))[1].sum((1, 2)) @ ONE

    assert len(known(ax.from_function(counted)).fingerprint()) == 64


def test_a_model_that_calls_back_into_python_is_refused():
    def outside(x):
        shape = jax.ShapeDtypeStruct((len(x), K), jnp.float32)
        return jax.jit(lambda x: jax.pure_callback(lambda x: np.zeros((len(x), K), np.float32), shape, x))(x)

    with pytest.raises(UserError, match=r"got one that calls back into Python \(pure_callback\)") as caught:
        known(ax.from_function(outside)).fingerprint()
    assert "\n" not in str(caught.value)


def test_names_and_shapes_that_are_none():
    for names in ("cat", ("a", "a", "b")):
        with pytest.raises(UserError, match="expected class_names as different texts, one for each class, got"):
            ax.from_function(lambda x: x, class_names=names)
    with pytest.raises(UserError, match=r"got \(3, 16, 16\), with channels first"):
        ax.from_function(lambda x: x, image_shape=(3, 16, 16))


@pytest.mark.slow
def test_a_fingerprint_is_the_same_in_another_process(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    code = (
        "from advx_jax.networks.own_code import own_classifier\n"
        "print(own_classifier('mine:by_factory').of_images((12, 10, 1), 3).fingerprint())\n"
    )
    prints = {
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(prints) == 1


def test_refused_with_the_remedy():
    module = Nnx(nnx.Rngs(0))
    with pytest.raises(UserError, match=r"in training mode: call its eval\(\)"):
        ax.predict(module, IMAGES)
    flat = PerExample(eqx.nn.MLP(120, K, 4, 1, key=jax.random.key(0)))
    with pytest.raises(UserError, match=r"one of a single image: pass jax\.vmap\(f\), or advx_jax\.from_equinox\(f\)"):
        ax.predict(flat, IMAGES)
    ax.predict(ax.from_equinox(flat), IMAGES)
    # Its activation, a function, is a leaf.
    ax.predict(lambda x: jax.vmap(flat)(x), IMAGES)
    module, state = eqx.nn.make_with_state(Eqx)(jax.random.key(0))
    one = eqx.nn.inference_mode(module)
    with pytest.raises(UserError, match=r"one of a single image, channels first: pass jax\.vmap"):
        number_of_classes(lambda x: one(x, state)[0], IMAGES)
    network = Linen()
    variables = network.init(jax.random.key(0), IMAGES, train=False)
    with pytest.raises(UserError, match="in training mode"):
        ax.predict(ax.from_linen(network, variables, train=True), IMAGES)
    with pytest.raises(UserError, match=r"expected variables as module.init gives them .*, got 'Conv_0'"):
        ax.from_linen(network, {"Conv_0": 1})
    with pytest.raises(UserError, match="expected an NNX module, got Linen"):
        ax.from_nnx(network)
    with pytest.raises(UserError, match="expected an Equinox module, got Linen"):
        ax.from_equinox(network)
    with pytest.raises(UserError, match="expected a Linen module, got Nnx"):
        ax.from_linen(Nnx(nnx.Rngs(0)), variables)
    with pytest.raises(UserError, match=r"expected hk.transform\(f\), got int"):
        ax.from_haiku(3, {})
    with pytest.raises(UserError, match="got none yet"):
        ax.from_function(lambda x: x).fingerprint()


def test_normalized():
    model = ax.normalized(lambda x: x.mean((1, 2)), (0.5, 0.25), (0.5, 0.125))
    np.testing.assert_allclose(model(jnp.full((1, 2, 2, 2), 0.5)), [[0, 2]])
    with pytest.raises(UserError, match="expected a mean and a positive std for each channel"):
        ax.normalized(model, (0.5,), (0.0,))
    with pytest.raises(UserError, match="divide both by 255"):
        ax.normalized(model, (125.3, 123.0), (63.0, 62.1))
    with pytest.raises(UserError, match="expected images of 2 channels, as mean and std have, got 3"):
        model(jnp.zeros((1, 2, 2, 3)))


MINE = """
import jax, numpy as np
from flax import linen as nn, nnx
import haiku as hk

SHAPE, K = (12, 10, 1), 3
weights = np.random.default_rng(0).normal(size=(120, K)).astype("f4")

def plain(images):
    return images.reshape(len(images), -1) @ weights

plain.class_names = ["cat", "dog", "cow"]
plain.image_shape = SHAPE

class Net(nnx.Module):
    def __init__(self, rngs=None):
        self.head = nnx.Linear(120, K, rngs=rngs or nnx.Rngs(0))
    def __call__(self, x):
        return self.head(x.reshape(len(x), -1))

instance = Net()
instance.eval()

class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(K)(x.reshape(len(x), -1))

variables = Linen().init(jax.random.key(0), np.zeros((1, *SHAPE)))
pair = Linen(), variables
bound = Linen().bind(variables)
unbound = Linen()
transformed = hk.without_apply_rng(hk.transform(lambda x: hk.Linear(K)(x.reshape(len(x), -1))))
haiku = transformed, transformed.init(jax.random.key(0), np.zeros((1, *SHAPE)))

def by_factory():
    return plain

def broken():
    raise KeyError("weights.npz")

number = 3
too_many_names = lambda x: plain(x)
too_many_names.class_names = ["cat", "dog"]
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_models", None)


@pytest.mark.parametrize("name", ["plain", "Net", "instance", "pair", "bound", "haiku", "by_factory"])
def test_own_code_by_name(name, mine):
    found = fitted(resolve_model(f"own_models:{name}"), SHAPE)
    assert found.provenance.name == f"own_models_{name}"
    assert found.classifier.n_classes == K
    assert found.classifier(jnp.asarray(IMAGES)).shape == (N, K)
    told = name in ("plain", "by_factory")
    assert found.classifier.class_names == (("cat", "dog", "cow") if told else None)


def test_what_is_no_model_is_refused_in_one_line(mine, monkeypatch):
    for name, message in {
        "number": "expected own_models:number to be a function from images to logits, .*, got int",
        "unbound": "got a Linen module without its variables",
        "broken": r"expected own_models:broken\(\) to make a model, got KeyError: 'weights.npz'",
        "plane": r"expected own_models to have a model 'plane', got none of that name.*plain",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            own_classifier(f"own_models:{name}")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="expected class_names for the model's 3 classes, got 2"):
        fitted(resolve_model("own_models:too_many_names"), SHAPE)
    with pytest.raises(UserError, match="expected images of 12×10×1 for the model, got 12×10×3"):
        fitted(resolve_model("own_models:plain"), (12, 10, 3))
    with pytest.raises(UserError, match="got from it TypeError: "):
        fitted(resolve_model("own_models:instance"), (9, 10, 1))
    with pytest.raises(UserError, match="no_such of --model=no_such:name to be a module that can be imported"):
        resolve_model("no_such:name")


def test_a_network_of_ours_may_be_made_by_own_code(mine, tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text("import advx_jax as ax\nnet = ax.load_model('resnet20-quick-robust')\n")
    sys.modules.pop("own_models", None)
    found = resolve_model("own_models:net").classifier
    assert isinstance(found, ax.Classifier)
    assert fitted(OwnModel(random_classifier(), Provenance()), (32, 32, 3)).classifier.n_classes == 10
