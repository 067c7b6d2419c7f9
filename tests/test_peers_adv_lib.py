"""Minimum-norm attacks, and APGD in L1, against adv_lib: step by step, and by the distances that they reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advx_jax.attacks import ALMA, APGD, DDN, FMN, PDGD, PDPGD, SigmaZero
from advx_jax.attacks.projections import size

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")

from reference.images import to_numpy, to_torch
from reference.peers import Recorded, in_float64, peer
from reference.published import load_published

# float64 on a smooth network, but adv_lib keeps radii in float32.
STEP_TOLERANCE = 1e-6
# Of 7 images: before its first success our FMN's radius grows at each step, adv_lib's may shrink; and how many values
# a step of APGD moves in L1 is rounded down there from what rounding may put on either side of a whole number.
STILL_TOGETHER = {"fmn": 5, "fmn l1": 5, "apgd l1": 6}
# Where two float32 paths part, they end in another place for a few images; σ-zero's for more, as adv_lib's own does
# from its float64 one.
DISTANCE_TOLERANCE, DISTANCES_WITHIN, MEAN_TOLERANCE = 0.02, 28, 0.03
STEPS = 12

_PRIMAL_DUAL = "primal_dual_gradient_descent"
# Ours, its module there, its name, and its settings; adv_lib's proximal operator of L0 is one of whole pixels, which
# ours is not.
PEERS = {
    "ddn": (DDN(), "decoupled_direction_norm", "ddn", {"levels": None}),
    "ddn rounded": (DDN(levels=256), "decoupled_direction_norm", "ddn", {}),
    "fmn": (FMN(), "fast_minimum_norm", "fmn", {"norm": 2}),
    "fmn l0": (FMN(norm="L0"), "fast_minimum_norm", "fmn", {"norm": 0}),
    "fmn l1": (FMN(norm="L1"), "fast_minimum_norm", "fmn", {"norm": 1}),
    "fmn linf": (FMN(norm="Linf"), "fast_minimum_norm", "fmn", {"norm": float("inf")}),
    "sigma-zero": (SigmaZero(), "sigma_zero", "sigma_zero", {}),
    "pdgd": (PDGD(first_ratio=1.0), _PRIMAL_DUAL, "pdgd", {"dual_ratio_init": 1.0}),
    **{
        f"pdpgd {norm}": (
            PDPGD(norm=norm, shrink="L1" if norm == "L0" else None),
            _PRIMAL_DUAL,
            "pdpgd",
            {"norm": number, "proximal_operator": 1 if norm == "L0" else None},
        )
        for norm, number in (("L0", 0), ("L1", 1), ("L2", 2), ("Linf", float("inf")))
    },
    "alma": (ALMA(), "augmented_lagrangian", "alma", {}),
    "alma l2": (ALMA(first_distance=0.3), "augmented_lagrangian", "alma", {"init_lr_distance": 0.3}),
    "alma l1": (
        ALMA(norm="L1", first_distance=0.5),
        "augmented_lagrangian",
        "alma",
        {"distance": "l1", "init_lr_distance": 0.5},
    ),
}


def steps_named(attack_name, count):
    return {"steps" if attack_name in ("ddn", "fmn") else "num_steps": count}


class SingleLogits(torch.nn.Module):
    """A network in float64 with logits in float32, as ALMA's multipliers are there: it mixes them, which fails else."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images).float()


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
    search = search.with_settings(steps=STEPS)
    with in_float64() as (classifier, twin, images, labels):
        recorded = Recorded(twin)
        network = SingleLogits(recorded) if attack_name == "alma" else recorded
        attack(network, to_torch(images), torch.tensor(labels), **steps_named(attack_name, STEPS), **options)
        x, y = jnp.asarray(images), jnp.asarray(labels)
        step = jax.jit(lambda state: search.step(classifier, x, y, state))
        state = search.init(classifier, x, y, None)
        for t, point in enumerate(recorded.points):
            difference = np.abs(state.perturbation - (point - images)).max((1, 2, 3))
            same = difference <= STEP_TOLERANCE
            assert same.sum() >= STILL_TOGETHER.get(name, 7), f"{name}: before step {t}: {difference}"
            state = step(state)
        assert len(recorded.points) == STEPS
        assert jnp.isfinite(state.best_so_far.norm).any()


@pytest.mark.parametrize(("loss", "theirs", "eps"), [("cross_entropy", "ce", 3.0), ("dlr", "dlr", 1.5)])
def test_every_step_of_apgd_in_l1_equals_adv_libs(loss, theirs, eps, adv_lib):
    attack, steps = adv_lib("auto_pgd", "_apgd"), 50
    with in_float64() as (classifier, twin, images, labels):
        points = []
        # It writes into its points later on.
        twin.register_forward_pre_hook(lambda _, arguments: points.append(to_numpy(arguments[0].detach().clone())))
        # The draw that it begins with.
        torch.manual_seed(0)
        drawn = to_numpy(torch.randn_like(to_torch(images)))
        torch.manual_seed(0)
        arguments = to_torch(images), torch.tensor(labels), torch.full((len(images),), eps), 1
        _, found, best_loss, _ = attack(twin, *arguments, n_iter=steps, loss_function=theirs)
        ours = APGD(eps=eps, norm="L1", steps=steps, loss=loss)
        x, y = jnp.asarray(images), jnp.asarray(labels)
        # The point that is evaluated next, from which a step may go back to the best one.
        step = jax.jit(lambda state: (ours._sparse(x, state), ours.step(classifier, x, y, state)))
        state = ours.init_at(classifier, x, y, x + drawn)
        longest = np.asarray(state.step_size)
        np.testing.assert_allclose(state.iterate, points[0], rtol=0, atol=STEP_TOLERANCE)
        assert len(points) == steps + 1
        for t, point in enumerate(points[1:]):
            found_point, state = step(state)
            same = np.abs(found_point - point).max((1, 2, 3)) <= STEP_TOLERANCE
            assert same.sum() >= STILL_TOGETHER["apgd l1"], f"step {t}"
        np.testing.assert_array_equal(state.best_so_far.success, found.numpy())
        np.testing.assert_allclose(state.best_loss[same], best_loss.numpy()[same], atol=STEP_TOLERANCE)
        # Steps that were never shortened, and points that were never sparser, would not have shown the schedule.
        assert (np.asarray(state.step_size) < longest).any()
        assert (np.asarray(state.sparsity.moved) < 0.2 * images[0].size).all()


# Steps made in float32.
COMPARED = {"ddn": 100, "fmn": 100, "fmn l1": 40, "sigma-zero": 40}
# Of these, means: two per cent of few values that change are less than one.
BY_MEAN = {"fmn", "sigma-zero"}


@pytest.mark.parametrize("name", COMPARED)
def test_distances_are_adv_libs(name, adv_lib, ara_subset, published_pt):
    from advx_jax.convert import read_pt

    search, module, attack_name, options = PEERS[name]
    attack, search = adv_lib(module, attack_name), search.with_settings(steps=COMPARED[name])
    images, labels = ara_subset
    path = published_pt("resnet44-all")
    classifier, twin = read_pt(path)[0], load_published(path)[0]
    found = np.asarray(search(classifier, images, labels).norm)
    y = torch.tensor(labels, dtype=torch.int64)
    reached = attack(twin, to_torch(images), y, **steps_named(attack_name, search.steps), **options)
    with torch.no_grad():
        broken = (twin(reached).argmax(1) != y).numpy()
    expected = np.where(broken, size(search.norm, jnp.asarray(to_numpy(reached) - images)), np.inf)
    same = (found == expected) | (np.abs(found - expected) <= DISTANCE_TOLERANCE * expected)
    both = np.isfinite(found) & np.isfinite(expected)
    print(f"\n{name}: {same.sum()} alike, mean {found[both].mean():.5g}, adv_lib's {expected[both].mean():.5g}")
    assert both.all()
    assert search.norm == "L0" or same.sum() >= DISTANCES_WITHIN
    if name in BY_MEAN:
        assert found.mean() == pytest.approx(expected.mean(), rel=MEAN_TOLERANCE)


def test_sigma_zero_counts_the_values_that_adv_libs_does_where_rounding_decides_nothing(adv_lib):
    """Adam's first steps are by signs, those of gradients that are rounding too: in float32 a few values part."""
    attack, search = adv_lib("sigma_zero", "sigma_zero"), SigmaZero(steps=100)
    with in_float64() as (classifier, twin, images, labels):
        reached = attack(twin, to_torch(images), torch.tensor(labels), num_steps=search.steps)
        expected = (to_numpy(reached) != images).sum((1, 2, 3))
        np.testing.assert_array_equal(search(classifier, images, labels).norm, expected)
        # Zero steps, or an attack that changes all values, would agree too.
        assert (expected > 0).all()
        assert (expected < images[0].size / 4).all()
