"""DDN and FMN against adv_lib: step by step, and by the distances that they reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advx_jax.attacks import DDN, FMN

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")

from reference.images import to_numpy, to_torch
from reference.peers import Recorded, in_float64, peer
from reference.published import load_published

# float64 on a smooth network, but adv_lib keeps radii in float32.
STEP_TOLERANCE = 1e-6
# Of 7 images: before its first success our FMN's radius grows at each step, adv_lib's may shrink.
STILL_TOGETHER = 5
# Where two float32 paths part, they end in another place for a few images.
DISTANCE_TOLERANCE, DISTANCES_WITHIN, MEAN_TOLERANCE = 0.02, 28, 0.03

PEERS = {
    "ddn": (DDN(), "decoupled_direction_norm", "ddn", {"levels": None}),
    "ddn rounded": (DDN(levels=256), "decoupled_direction_norm", "ddn", {}),
    "fmn": (FMN(), "fast_minimum_norm", "fmn", {"norm": 2}),
    "fmn linf": (FMN(norm="Linf"), "fast_minimum_norm", "fmn", {"norm": float("inf")}),
}


@pytest.fixture
def adv_lib():
    """Import one of adv_lib's attacks."""

    def attack(module, name):
        try:
            return getattr(peer(f"adv_lib.attacks.{module}"), name)
        except ImportError as error:
            pytest.skip(f"needs adv_lib (pip install --no-deps adv-lib==0.2.8): {error}")

    return attack


@pytest.mark.parametrize("name", PEERS)
def test_every_step_equals_adv_libs(name, adv_lib):
    search, module, attack_name, options = PEERS[name]
    attack = adv_lib(module, attack_name)
    search = search.with_settings(steps=12)
    with in_float64() as (classifier, twin, images, labels):
        recorded = Recorded(twin)
        attack(recorded, to_torch(images), torch.tensor(labels), steps=12, **options)
        x, y = jnp.asarray(images), jnp.asarray(labels)
        step = jax.jit(lambda state: search.step(classifier, x, y, state))
        state = search.init(classifier, x, y, None)
        for t, point in enumerate(recorded.points):
            difference = np.abs(state.perturbation - (point - images)).max((1, 2, 3))
            same = difference <= STEP_TOLERANCE
            assert same.sum() >= (STILL_TOGETHER if name == "fmn" else 7), f"{name}: before step {t}: {difference}"
            state = step(state)
        assert len(recorded.points) == 12
        assert jnp.isfinite(state.best_so_far.norm).any()


@pytest.mark.parametrize("name", ["ddn", "fmn"])
def test_distances_are_adv_libs(name, adv_lib, ara_subset, published_pt):
    from advx_jax.convert import read_pt

    search, module, attack_name, options = PEERS[name]
    attack = adv_lib(module, attack_name)
    images, labels = ara_subset
    path = published_pt("resnet44-all")
    classifier, twin = read_pt(path)[0], load_published(path)[0]
    found = np.asarray(search(classifier, images, labels).norm)
    reached = attack(twin, to_torch(images), torch.tensor(labels, dtype=torch.int64), steps=search.steps, **options)
    expected = np.sqrt(np.square(to_numpy(reached) - images).sum((1, 2, 3)))
    assert (np.abs(found - expected) <= DISTANCE_TOLERANCE * expected).sum() >= DISTANCES_WITHIN
    if name == "fmn":
        assert found.mean() == pytest.approx(expected.mean(), rel=MEAN_TOLERANCE)
