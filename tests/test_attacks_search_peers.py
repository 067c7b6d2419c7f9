"""Minimum-norm attacks against adv_lib's, and what the best of them reaches on the published networks."""

import importlib
import sys
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import TINY, random_classifier

from advx_jax.analysis.robustness_area import PUBLISHED_ATTACK, SEARCHES, minimum_norm_distances
from advx_jax.attacks.chain import minimise_norm
from advx_jax.attacks.ddn import DDN
from advx_jax.attacks.fmn import FMN

torch = pytest.importorskip("torch")

from reference.flax_layout import layer_names, state_dict_from_flax
from reference.images import to_numpy, to_torch
from reference.network import ResNet as Twin
from reference.published import load_published

# float64 on a smooth network, but adv_lib keeps radii in float32.
STEP_TOLERANCE = 1e-6
# Of 7 images: before its first success our FMN's radius grows at each step, adv_lib's may shrink.
STILL_TOGETHER = 5
# Where two float32 paths part, they end in another place for a few images.
DISTANCE_TOLERANCE, DISTANCES_WITHIN, MEAN_TOLERANCE = 0.02, 28, 0.03
# Mean distance of the best attack, over the published attack's with 450 gradients.
REACHED = {"all": 0.78, "standard": 0.86, "adv-train": 0.97}

PEERS = {
    "ddn": (DDN(), "decoupled_direction_norm", "ddn", {"levels": None}),
    "ddn rounded": (DDN(levels=256), "decoupled_direction_norm", "ddn", {}),
    "fmn": (FMN(), "fast_minimum_norm", "fmn", {"norm": 2}),
    "fmn linf": (FMN(norm="Linf"), "fast_minimum_norm", "fmn", {"norm": float("inf")}),
}


class _Nothing(types.ModuleType):
    """Stands in for what adv_lib imports for pictures and models that these attacks do not use."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return object


@pytest.fixture
def adv_lib(monkeypatch):
    """Import one of adv_lib's attacks."""
    for name in ("torchvision", "torchvision.models", "torchvision.transforms", "visdom"):
        if name not in sys.modules:
            monkeypatch.setitem(sys.modules, name, _Nothing(name))

    def attack(module, name):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                return getattr(importlib.import_module(f"adv_lib.attacks.{module}"), name)
        except ImportError as error:
            pytest.skip(f"needs adv_lib (pip install advx-jax[peers]): {error}")

    return attack


@pytest.fixture
def subset(golden):
    """The first 32 images of the published subset, and their labels."""
    images = golden("images_ara_first32.npz")
    return images["images_u8"].astype(np.float32) / np.float32(255), images["labels"].astype(np.int32)


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_every_step_equals_adv_libs(name, adv_lib):
    search, module, peer, options = PEERS[name]
    attack = adv_lib(module, peer)
    search = search.revised(12, True)
    with jax.enable_x64(True):
        classifier = random_classifier(dtype="float64")
        twin = Twin(TINY.stage_lengths, TINY.stage_widths, TINY.n_classes, robust=True).double().eval()
        names = layer_names(TINY.stage_lengths, TINY.stage_widths)
        twin.load_state_dict(state_dict_from_flax(classifier.variables, twin, names))
        images = np.random.default_rng(0).uniform(size=(7, 8, 8, 3))
        labels = np.array(jax.jit(classifier)(images).argmax(-1), np.int64)
        seen = []

        def watched(x):
            seen.append(to_numpy(x.detach()) - images)
            return twin(x)

        attack(watched, to_torch(images), torch.tensor(labels), steps=12, **options)
        x, y = jnp.asarray(images), jnp.asarray(labels)
        step = jax.jit(lambda state: search.advance(classifier, x, y, state, 1))
        state = search.start(x)
        for t, perturbation in enumerate(seen):
            difference = np.abs(state.perturbation - perturbation).max((1, 2, 3))
            same = difference <= STEP_TOLERANCE
            assert same.sum() >= (STILL_TOGETHER if name == "fmn" else 7), f"{name}: before step {t}: {difference}"
            state = step(state)
        assert len(seen) == 12
        assert jnp.isfinite(state.found.norm).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddn", "fmn"])
def test_distances_are_adv_libs(name, adv_lib, subset, published_pt):
    from convert import read_pt

    search, module, peer, options = PEERS[name]
    attack = adv_lib(module, peer)
    images, labels = subset
    path = published_pt("resnet44-all")
    classifier, twin = read_pt(path)[0], load_published(path)[0]
    found = np.asarray(jax.jit(minimise_norm)(search, classifier, images, labels).norm)
    reached = attack(twin, to_torch(images), torch.tensor(labels, dtype=torch.int64), steps=search.steps, **options)
    expected = np.sqrt(np.square(to_numpy(reached) - images).sum((1, 2, 3)))
    assert (np.abs(found - expected) <= DISTANCE_TOLERANCE * expected).sum() >= DISTANCES_WITHIN
    if name == "fmn":
        assert found.mean() == pytest.approx(expected.mean(), rel=MEAN_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", REACHED)
def test_best_attack_finds_smaller_distances_with_fewer_gradients(name, subset, golden, published_pt):
    from convert import read_pt

    images, labels = subset
    classifier, _ = read_pt(published_pt(f"resnet44-{name}"))
    if name == "adv-train":
        published = _distances(classifier, images, labels, PUBLISHED_ATTACK)
    else:
        published = golden(f"ara_{name}.npz")["attack"]
    best = SEARCHES["best"]
    assert best.gradient_evaluations <= 200
    found = _distances(classifier, images, labels, best)
    np.testing.assert_array_equal(found == 0, published == 0)
    assert found.sum() <= REACHED[name] * published.sum()


def _distances(classifier, images, labels, attack):
    distances = np.full(len(images), np.nan)
    for places, part in minimum_norm_distances(classifier, images, labels, attack):
        assert part.measured().all()
        distances[places] = part.distances
    return distances
