"""APGD, FAB and Square against pyautoattack: step by step, and by the accuracy that they leave."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advx_jax as ax
from advx_jax.attacks import APGD, APGDT, FAB, FABT, AutoAttack, PhasedAPGD, Square
from advx_jax.attacks.apgd import _FIRST_STEP
from advx_jax.attacks.apgd_phases import planned
from advx_jax.attacks.square import _bump

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")
pytest.importorskip("pyautoattack", reason="needs pyautoattack: pip install -e '.[peers]'")

from pyautoattack import AutoAttack as TheirAutoAttack
from pyautoattack import autopgd_base
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from reference.images import to_numpy, to_torch
from reference.peers import BUDGETS, N_IMAGES, Recorded, images_left, images_left_by_peer, in_float64
from reference.published import load_published
from robustbench_models import robustbench_file, with_random_numbers

STEPS, STEPS_ON_IMPORTED = 40, 10
NORMS = {"L2": 0.3, "Linf": 0.03}
# float64, a smooth network, 40 steps that each may stretch a difference: only the order of sums differs.
STEP_TOLERANCE = 1e-10

# Fewer steps than the attacks' own, the same on both sides.
REDUCED_STEPS = {"apgd-ce": 40, "apgd-t": 10, "fab-t": 10, "square": 200}
OURS = {"apgd-ce": APGD, "apgd-t": APGDT, "fab-t": FABT, "square": Square}
# Starting points and windows are drawn otherwise, so that images on the edge may fall to either side.
IMAGES_APART = {"apgd-ce": 1, "apgd-t": 1, "fab-t": 2, "square": 2}


@pytest.fixture
def tiny(monkeypatch):
    """A pair in float64; the peer's casts to float32 do nothing."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    with in_float64() as pair:
        yield pair


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", ["cross_entropy", "dlr", "targeted_dlr"])
def test_every_step_of_apgd_equals_the_peers(loss, norm, tiny):
    classifier, twin, images, labels = tiny
    attack = APGD(eps=NORMS[norm], norm=norm, steps=STEPS, loss=loss, target=2)
    targets = np.argsort(np.asarray(jax.jit(classifier)(images)), -1)[:, -4]
    shift = np.random.default_rng(1).normal(size=images.shape) * 0.02
    initial = attack.project(jnp.asarray(images), jnp.asarray(images + shift))

    recorded = Recorded(twin)
    settings = {"n_iter": STEPS, "norm": norm, "eps": attack.eps, "device": "cpu"}
    if loss == "targeted_dlr":
        peer = APGDAttack_targeted(recorded, **settings)
        peer.y_target = torch.tensor(targets)
    else:
        peer = APGDAttack(recorded, loss="ce" if loss == "cross_entropy" else loss, **settings)
    peer.init_hyperparam(to_torch(images))
    _, standing, best_loss, _ = peer.attack_single_run(
        to_torch(images), torch.tensor(labels), x_init=to_torch(np.array(initial))
    )

    arrays = jnp.asarray(images), jnp.asarray(labels)
    state = attack.init_at(classifier, *arrays, initial)
    np.testing.assert_array_equal(state.targets, targets)
    advance = jax.jit(lambda state: attack.step(classifier, *arrays, state))
    expected = recorded.points
    assert len(expected) == STEPS + 1
    for step, wanted in enumerate(expected):
        found = np.asarray(state.iterate)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=STEP_TOLERANCE, err_msg=f"step {step}")
        if step < STEPS:
            state = advance(state)
    np.testing.assert_array_equal(state.best_so_far.success, ~standing.numpy().astype(bool))
    np.testing.assert_allclose(state.best_loss, best_loss.numpy(), atol=STEP_TOLERANCE)
    # Steps that were never halved would not have shown the schedule.
    assert (np.asarray(state.step_size) < _FIRST_STEP * attack.eps / 4).any()


# At which of eight images of a random network some fall, and some stand.
IMPORTED_BUDGETS = {"L2": 0.02, "Linf": 0.0005}


@pytest.mark.parametrize("norm", NORMS)
def test_a_network_that_was_imported_stands_as_with_the_peer(norm, tmp_path):
    """RobustBench's PreActResNet-18 out of a file, against the same in PyTorch: every image, in float64."""
    from advx_jax.convert import read_pt

    module = robustbench_file("resnet")
    twin = with_random_numbers(module.PreActResNet(module.PreActBlock, [2, 2, 2, 2]))
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in twin.state_dict().items()}}, tmp_path / "x.pt"
    )
    classifier, _ = read_pt(tmp_path / "x.pt", "PreActResNet-18", "none")
    images = np.random.default_rng(0).uniform(size=(8, 32, 32, 3))
    with jax.enable_x64(True):
        torch.set_default_dtype(torch.float64)
        try:
            classifier, twin = jax.tree.map(lambda leaf: jnp.asarray(leaf, "float64"), classifier), twin.double()
            labels = np.array(jax.jit(classifier)(images).argmax(-1), np.int64)
            attack = APGD(eps=IMPORTED_BUDGETS[norm], norm=norm, steps=STEPS_ON_IMPORTED)
            arrays = jnp.asarray(images), jnp.asarray(labels)
            state = attack.init_at(classifier, *arrays, arrays[0])
            state = jax.jit(lambda state: attack.advance(classifier, *arrays, state, attack.steps))(state)
            peer = APGDAttack(twin, n_iter=attack.steps, loss="ce", norm=norm, eps=attack.eps, device="cpu")
            peer.init_hyperparam(to_torch(images))
            _, standing, best_loss, _ = peer.attack_single_run(
                to_torch(images), torch.tensor(labels), x_init=to_torch(images)
            )
        finally:
            torch.set_default_dtype(torch.float32)
    stand = ~np.asarray(state.best_so_far.success)
    print(f"\n{norm}: {stand.sum()} of {len(stand)} images stand")
    np.testing.assert_array_equal(stand, standing.numpy().astype(bool))
    np.testing.assert_allclose(state.best_loss, best_loss.numpy(), rtol=1e-6)
    assert 0 < stand.sum() < len(stand)


def test_every_step_of_the_phases_in_l1_equals_the_peers(tiny, monkeypatch):
    """Whose draw is handed over, and which is kept from counting what x + δ - δ leaves of x as a change."""
    classifier, twin, images, labels = tiny
    count = autopgd_base.L0_norm
    monkeypatch.setattr(autopgd_base, "L0_norm", lambda v: count(v * (v.abs() > STEP_TOLERANCE)))
    steps, eps = 40, 2.0
    recorded = Recorded(twin)
    peer = APGDAttack(recorded, n_iter=steps, loss="ce", norm="L1", eps=eps, device="cpu")
    peer.init_hyperparam(to_torch(images))
    torch.manual_seed(0)
    drawn = to_numpy(torch.randn_like(to_torch(images)))
    torch.manual_seed(0)
    lengths = list(planned(steps).lengths)
    best, standing, best_loss, _ = peer.decr_eps_pgd(
        to_torch(images), torch.tensor(labels), [3 * eps, 2 * eps, eps], lengths
    )
    attack = PhasedAPGD(eps=eps, norm="L1", steps=steps)
    arrays = jnp.asarray(images), jnp.asarray(labels)
    state = attack.init_at(classifier, *arrays, arrays[0] + drawn)
    advance = jax.jit(lambda state: attack.step(classifier, *arrays, state))
    expected = recorded.points
    assert len(expected) == attack.evaluations
    for step, wanted in enumerate(expected):
        np.testing.assert_allclose(state.iterate, wanted, rtol=0, atol=STEP_TOLERANCE, err_msg=f"step {step}")
        if step < attack.n_steps:
            state = advance(state)
    np.testing.assert_array_equal(state.best_so_far.success, ~standing.numpy().astype(bool))
    np.testing.assert_allclose(state.best_loss, best_loss.numpy(), atol=STEP_TOLERANCE)
    np.testing.assert_allclose(state.best, to_numpy(best), rtol=0, atol=STEP_TOLERANCE)


@pytest.mark.parametrize("norm", [*NORMS, "L1"])
@pytest.mark.parametrize("targeted", [True, False])
def test_fab_finds_the_peers_points(targeted, norm, tiny):
    classifier, twin, images, labels = tiny
    peer = FABAttack_PT(twin, norm=norm, n_iter=STEPS, eps=1.0, device="cpu")
    rank = 3
    peer.target_class = rank
    expected = to_numpy(peer.attack_single_run(to_torch(images), torch.tensor(labels), is_targeted=targeted))

    # The label's is the first rank of all.
    attack = FAB(eps=1.0, norm=norm, steps=STEPS, targeted=targeted, target=rank - 2)
    arrays = jnp.asarray(images), jnp.asarray(labels)
    state = attack.init(classifier, *arrays, None)
    state = jax.jit(lambda state: attack.advance(classifier, *arrays, state, STEPS))(state)
    assert np.isfinite(state.distance).all()
    np.testing.assert_allclose(state.nearest, expected, rtol=0, atol=STEP_TOLERANCE)


@pytest.mark.parametrize("norm", BUDGETS)
@pytest.mark.parametrize("attack", REDUCED_STEPS)
@pytest.mark.parametrize("name", ["resnet44-all", "resnet44-adv-train"])
def test_accuracy_left_is_the_peers(name, attack, norm, golden, published_pt):
    from advx_jax.convert import read_pt

    data = golden("images_test_first256.npz")
    images = data["images_u8"][:N_IMAGES].astype(np.float32) / np.float32(255)
    labels = data["labels"][:N_IMAGES].astype(np.int32)
    classifier, _ = read_pt(published_pt(name))
    twin, _ = load_published(published_pt(name))
    ours = images_left(
        classifier, images, labels, OURS[attack](eps=BUDGETS[norm], norm=norm, steps=REDUCED_STEPS[attack])
    )
    theirs = images_left_by_peer(
        twin, to_torch(images), torch.tensor(labels, dtype=torch.int64), peers_attack(twin, attack, norm).perturb
    )
    print(f"\n{name} {attack} {norm}: {ours} of {N_IMAGES} images left, {theirs} by the peer")
    assert abs(ours - theirs) <= IMAGES_APART[attack]


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_a_random_network_keeps_as_much_accuracy_as_with_the_peer(norm):
    """Two layers with noise before each, over runs of 64 images that each side judges by draws of its own."""
    shape, hidden, n_classes, n_images, runs, sigma = (6, 6, 3), 16, 4, 64, 4, 0.15
    drawn = np.random.default_rng(0)
    first = drawn.normal(size=(108, hidden)).astype(np.float32) / 4
    second = drawn.normal(size=(hidden, n_classes)).astype(np.float32)
    images = drawn.uniform(size=(n_images, *shape)).astype(np.float32)
    labels = (np.tanh((images - 0.5).reshape(n_images, -1) @ first) @ second).argmax(-1)
    eps = {"L2": 0.16, "Linf": 0.019}[norm]

    def ours(images, keys):
        before, between = (
            jax.vmap(lambda key, place=place, size=size: jax.random.normal(jax.random.fold_in(key, place), (size,)))(
                keys
            )
            for place, size in enumerate((108, hidden))
        )
        inside = jnp.tanh(((images - 0.5).reshape(len(images), -1) + sigma * before) @ first)
        return (inside + sigma * between) @ second

    class Theirs(torch.nn.Module):
        def forward(self, x):
            flat = (x - 0.5).permute(0, 2, 3, 1).flatten(1)
            inside = torch.tanh((flat + sigma * torch.randn_like(flat)) @ torch.tensor(first))
            return (inside + sigma * torch.randn_like(inside)) @ torch.tensor(second)

    model, attack = ax.from_random_function(ours), AutoAttack(eps=eps, norm=norm, version="rand")
    left = {"ours": 0.0, "theirs": 0.0}
    for seed in range(runs):
        left["ours"] += ax.robust_accuracy(model, images, labels, attack, jax.random.key(seed)) / runs
        peer = TheirAutoAttack(Theirs(), norm=norm, eps=eps, version="rand", seed=seed)
        _, predicted = peer.run_standard_evaluation(to_torch(images), torch.tensor(labels))
        left["theirs"] += float((predicted.numpy() == labels).mean()) / runs
    print(f"\n{norm}: {left}")
    share = sum(left.values()) / 2
    assert 0.1 < share < 0.6
    # Three standard deviations of the difference of two shares of so many draws.
    assert abs(left["ours"] - left["theirs"]) < 3 * (2 * share * (1 - share) / (runs * n_images)) ** 0.5


def test_bumps_of_square_in_l1_are_the_peers(monkeypatch):
    peer = SquareAttack(torch.nn.Identity(), norm="L1", eps=1.0, seed=0, device="cpu")
    for side in (3, 4, 5, 6, 9, 31):
        for turned in (False, True):
            monkeypatch.setattr(torch, "rand", lambda _, turned=turned: torch.tensor([float(turned)]))
            found = _bump("L1", side)
            np.testing.assert_allclose(found.T if turned else found, peer.eta(side), atol=1e-6)


def peers_attack(twin, attack, norm):
    steps, settings = REDUCED_STEPS[attack], {"norm": norm, "eps": BUDGETS[norm], "seed": 0, "device": "cpu"}
    if attack == "apgd-ce":
        return APGDAttack(twin, n_iter=steps, loss="ce", **settings)
    if attack == "apgd-t":
        return APGDAttack_targeted(twin, n_iter=steps, **settings)
    if attack == "fab-t":
        return FABAttack_PT(twin, n_iter=steps, targeted=True, **settings)
    return SquareAttack(twin, n_queries=steps, resc_schedule=False, **settings)
