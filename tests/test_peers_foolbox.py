"""PGD, DDN and FMN against foolbox: step by step with PyTorch, and the distances that it reaches with JAX.

Foolbox 3.3.4's L2 FMN is another attack than the paper's: its projection onto the ball leaves every point where it
is (it divides the norm by itself, not the radius by the norm). So only its L∞ form is compared step by step.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advx_jax.attacks import DDN, FMN, PGD, pgd

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")

from reference.images import to_torch
from reference.peers import Recorded, in_float64, peer

try:
    foolbox = peer("foolbox")
except ImportError as error:
    pytest.skip(f"needs foolbox (pip install -e '.[peers]'): {error}", allow_module_level=True)

STEPS = 20
# float64 on a smooth network: only the order of sums differs.
STEP_TOLERANCE = 1e-10
# Foolbox keeps radii in float32.
RADIUS_TOLERANCE = 1e-6
SEARCHES = {
    "ddn": (DDN(), foolbox.attacks.DDNAttack),
    "fmn linf": (FMN(norm="Linf"), foolbox.attacks.LInfFMNAttack),
}
# Where two float32 paths part, they end in another place for a few images.
DISTANCE_TOLERANCE, DISTANCES_WITHIN = 0.02, 28


def with_pytorch(network):
    return foolbox.PyTorchModel(network.eval(), bounds=(0, 1), device="cpu")


@pytest.mark.parametrize(("norm", "eps"), [("L2", 0.3), ("Linf", 0.03)])
def test_every_step_of_pgd_equals_foolboxs(norm, eps):
    attacks = {
        "L2": foolbox.attacks.L2ProjectedGradientDescentAttack,
        "Linf": foolbox.attacks.LinfProjectedGradientDescentAttack,
    }
    with in_float64() as (classifier, twin, images, labels):
        ours, recorded = PGD(eps=eps, norm=norm, steps=STEPS), Recorded(twin)
        attack = attacks[norm](rel_stepsize=pgd._PATH_OVER_EPS / STEPS, steps=STEPS, random_start=False)
        attack.run(with_pytorch(recorded), to_torch(images), torch.tensor(labels), epsilon=eps)
        arrays = jnp.asarray(images), jnp.asarray(labels)
        state = ours.init_at(classifier, *arrays, jnp.asarray(images))
        advance = jax.jit(lambda state: ours.step(classifier, *arrays, state))
        assert len(recorded.points) == STEPS
        for step, wanted in enumerate(recorded.points):
            np.testing.assert_allclose(state.iterate, wanted, rtol=0, atol=STEP_TOLERANCE, err_msg=f"step {step}")
            state = advance(state)
        assert state.best_so_far.success.any()


@pytest.mark.parametrize("name", SEARCHES)
def test_every_step_equals_foolboxs(name):
    search, attack = SEARCHES[name]
    search = search.with_settings(steps=STEPS)
    with in_float64() as (classifier, twin, images, labels):
        recorded = Recorded(twin)
        attack(steps=STEPS).run(with_pytorch(recorded), to_torch(images), torch.tensor(labels))
        x, y = jnp.asarray(images), jnp.asarray(labels)
        step = jax.jit(lambda state: search.step(classifier, x, y, state))
        state = search.init(classifier, x, y, None)
        assert len(recorded.points) == STEPS
        for t, point in enumerate(recorded.points):
            np.testing.assert_allclose(
                state.perturbation, point - images, rtol=0, atol=RADIUS_TOLERANCE, err_msg=f"before step {t}"
            )
            state = step(state)
        assert jnp.isfinite(state.best_so_far.norm).any()


@pytest.mark.parametrize("name", ["ddn", "fmn"])
def test_distances_against_those_of_foolbox_with_jax(name, ara_subset, published_pt):
    from advx_jax.convert import read_pt

    search, attack = {**SEARCHES, "fmn": (FMN(), foolbox.attacks.L2FMNAttack)}[name]
    images, labels = ara_subset
    classifier, _ = read_pt(published_pt("resnet44-all"))
    found = np.asarray(search(classifier, images, labels).norm)
    network = foolbox.JAXModel(jax.jit(classifier.__call__), bounds=(0, 1))
    reached = attack(steps=search.steps).run(network, jnp.asarray(images), jnp.asarray(labels))
    expected = np.sqrt(np.square(np.asarray(reached) - images).sum((1, 2, 3)))
    print(f"\n{name}: mean distance {found.mean():.5f}, {expected.mean():.5f} by foolbox")
    if name == "ddn":
        assert (np.abs(found - expected) <= DISTANCE_TOLERANCE * expected).sum() >= DISTANCES_WITHIN
    else:
        assert found.mean() < expected.mean()
