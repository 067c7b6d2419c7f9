"""PGD and Square against torchattacks: step by step, and by the accuracy that they leave."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advx_jax.attacks import PGD, Square, pgd

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")
pytest.importorskip("torchattacks", reason="needs torchattacks: pip install --no-deps torchattacks==3.5.1")

import torchattacks
from reference.images import to_torch
from reference.peers import BUDGETS, N_IMAGES, Recorded, images_left, images_left_by_peer, in_float64
from reference.published import load_published

STEPS = 20
NORMS = {"L2": 0.3, "Linf": 0.03}
# float64 on a smooth network: only the order of sums differs.
STEP_TOLERANCE = 1e-10

# The same on both sides.
REDUCED_STEPS = {"pgd": 40, "square": 200}
# Starting points and windows are drawn otherwise, and their PGD counts its last point only, not all that it saw.
IMAGES_APART = {"pgd": 1, "square": 2}


def peers_pgd(network, norm, ours, random_start):
    """With steps as long as ours."""
    settings = {
        "eps": ours.eps,
        "alpha": pgd._PATH_OVER_EPS * ours.eps / ours.steps,
        "steps": ours.steps,
        "random_start": random_start,
    }
    if norm == "Linf":
        return torchattacks.PGD(network, **settings)
    return torchattacks.PGDL2(network, eps_for_division=0.0, **settings)


@pytest.mark.parametrize("norm", NORMS)
def test_every_step_of_pgd_equals_torchattacks(norm):
    with in_float64() as (classifier, twin, images, labels):
        ours = PGD(eps=NORMS[norm], norm=norm, steps=STEPS)
        recorded = Recorded(twin)
        # It divides by the size of the perturbation, and so could not start without one.
        with np.errstate(all="ignore"):
            peers_pgd(recorded, norm, ours, random_start=False)(to_torch(images), torch.tensor(labels))
        arrays = jnp.asarray(images), jnp.asarray(labels)
        state = ours.init_at(classifier, *arrays, jnp.asarray(images))
        advance = jax.jit(lambda state: ours.step(classifier, *arrays, state))
        assert len(recorded.points) == STEPS
        for step, wanted in enumerate(recorded.points):
            np.testing.assert_allclose(state.iterate, wanted, rtol=0, atol=STEP_TOLERANCE, err_msg=f"step {step}")
            state = advance(state)
        assert state.best_so_far.success.any()


@pytest.mark.parametrize("norm", BUDGETS)
@pytest.mark.parametrize("attack", REDUCED_STEPS)
@pytest.mark.parametrize("name", ["resnet44-all", "resnet44-adv-train"])
def test_accuracy_left_is_torchattacks(name, attack, norm, golden, published_pt):
    from advx_jax.convert import read_pt

    data = golden("images_test_first256.npz")
    images = data["images_u8"][:N_IMAGES].astype(np.float32) / np.float32(255)
    labels = data["labels"][:N_IMAGES].astype(np.int32)
    classifier, _ = read_pt(published_pt(name))
    twin, _ = load_published(published_pt(name))
    steps, eps = REDUCED_STEPS[attack], BUDGETS[norm]
    our_attack = {"pgd": PGD, "square": Square}[attack](eps=eps, norm=norm, steps=steps)
    if attack == "pgd":
        torch.manual_seed(0)
        peer = peers_pgd(twin, norm, our_attack, random_start=True)
    else:
        peer = torchattacks.Square(twin, norm=norm, eps=eps, n_queries=steps, resc_schedule=False)
    ours = images_left(classifier, images, labels, our_attack)
    theirs = images_left_by_peer(twin, to_torch(images), torch.tensor(labels, dtype=torch.int64), peer)
    print(f"\n{name} {attack} {norm}: {ours} of {N_IMAGES} images left, {theirs} by torchattacks")
    assert abs(ours - theirs) <= IMAGES_APART[attack]
