"""The attack loop against the PyTorch twin step by step, and against the reference outputs in training mode."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import TINY, random_classifier

from advx_jax.attacks import NoBetterThanRandom, Published, PublishedBounded, Targeted

torch = pytest.importorskip("torch")


from reference import attack as twin_attack
from reference.flax_layout import layer_names, state_dict_from_flax
from reference.images import to_numpy, to_torch
from reference.network import ResNet as Twin
from reference.published import load_published

STEPS = 9

# float64, a smooth network: only the order of sums differs.
STEP_TOLERANCE = 1e-10
# float32 on ResNet-44; a second implementation reached 5e-5 of the largest value.
GOLDEN_TOLERANCE = 1e-3
# One step of float32: the direction's rounding, before any decision can differ.
FIRST_STEP_TOLERANCE = 1e-5
FIRST_STEP_IMAGES = 4


ATTACKS = {
    "bounded": (PublishedBounded, {"eps": 0.05, "overshoot": 3.0}),
    "bounded with momentum": (PublishedBounded, {"eps": 0.05, "overshoot": 3.0, "momentum": 0.7}),
    "targeted": (functools.partial(PublishedBounded, criterion=Targeted()), {"eps": 0.1, "overshoot": 5.0}),
    "misclassified": (Published, {"eps": 4.0, "momentum": 0.9}),
    "better than random": (
        functools.partial(Published, criterion=NoBetterThanRandom()),
        {"eps": 4.0, "momentum": 0.9},
    ),
    "misclassified without momentum": (Published, {"eps": 2.0, "momentum": 0.0}),
}
TWINS = {
    "bounded": twin_attack.bounded_attack,
    "targeted": twin_attack.targeted_attack,
    "misclassified": functools.partial(twin_attack.minimum_norm_attack, criterion="attack"),
    "better than random": functools.partial(twin_attack.minimum_norm_attack, criterion="btr"),
}


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def tiny(float64):
    """A random network of which every value matters, in float64, and its twin."""
    classifier = random_classifier(dtype="float64")
    twin = Twin(TINY.stage_lengths, TINY.stage_widths, TINY.n_classes, robust=True).double().eval()
    names = layer_names(TINY.stage_lengths, TINY.stage_widths)
    twin.load_state_dict(state_dict_from_flax(classifier.variables, twin, names))
    images = np.random.default_rng(0).uniform(size=(7, 8, 8, 3))
    labels = np.array(jax.jit(classifier)(images).argmax(-1), np.int64)
    labels[2] = (labels[2] + 3) % 10
    return classifier, twin, images, labels


@pytest.mark.parametrize("name", ATTACKS)
def test_every_step_equals_the_twins(name, tiny):
    make, options = ATTACKS[name]
    classifier, twin, images, labels = tiny
    attack = make(steps=STEPS, **options)
    x, y = jnp.asarray(images), jnp.asarray(labels)

    run = TWINS[name.removesuffix(" with momentum").removesuffix(" without momentum")]
    expected = run(twin, to_torch(images), torch.tensor(labels), steps=STEPS, keep_trajectory=True, **options)

    step = jax.jit(lambda state: attack.step(classifier, x, y, state))
    state = attack.init(classifier, x, y)
    assert len(expected.trajectory) == STEPS + 1
    for t, delta in enumerate(expected.trajectory):
        np.testing.assert_allclose(
            state.perturbation, to_numpy(delta), rtol=0, atol=STEP_TOLERANCE, err_msg=f"{name}: before step {t}"
        )
        if t < STEPS:
            state = step(state)
    first_ok = expected.first_ok.numpy()
    if isinstance(attack, PublishedBounded):
        np.testing.assert_array_equal(state.first_stop, np.where(first_ok > STEPS, STEPS, first_ok))
    else:
        result = attack.result(classifier, x, y, state)
        reached = np.where(result.success[:, None, None, None], images + to_numpy(expected.delta), images)
        np.testing.assert_allclose(result.adversarial, reached, rtol=0, atol=STEP_TOLERANCE)
        np.testing.assert_array_equal(result.first_success, np.where(first_ok > STEPS, STEPS, first_ok))
        np.testing.assert_array_equal(result.success, first_ok <= STEPS)
    # A trajectory on which nothing ever happens would prove little.
    assert first_ok[first_ok <= STEPS].size > 0


TRAINING_ATTACKS = {
    "advtrain_l2.npz": ("resnet44-adv-train", PublishedBounded(eps=0.01, steps=7), twin_attack.bounded_attack),
    "advtrain_l2min_half.npz": (
        "resnet44-all",
        Published(eps=0.1, steps=7, momentum=0.0),
        twin_attack.minimum_norm_attack,
    ),
}


@pytest.mark.usefixtures("compiled_as_people_do")
@pytest.mark.slow
@pytest.mark.parametrize("file", TRAINING_ATTACKS)
def test_training_attack_equals_the_reference(file, golden, published_pt):
    from advx_jax.convert import read_pt

    name, attack, _ = TRAINING_ATTACKS[file]
    expected = golden(file)
    classifier, _ = read_pt(published_pt(name))
    x = expected["images_u8"].astype(np.float32) / np.float32(255)

    @jax.jit
    def run(classifier, x, y, attacked):
        return attack.perturb(classifier.in_training_mode, x, y, classifier.variables["batch_stats"], attacked)

    perturbation, batch_stats = run(classifier, x, expected["labels"].astype(np.int32), expected["attacked"])
    adversarial = x + np.asarray(perturbation)
    difference = np.abs(adversarial - expected["adversarial"]).max()
    assert difference <= GOLDEN_TOLERANCE * np.abs(expected["adversarial"]).max()
    checked = 0
    arch = classifier.architecture
    for flax_name, torch_name in layer_names(arch.stage_lengths, arch.stage_widths).items():
        for leaf, torch_leaf in (("mean", "running_mean"), ("var", "running_var")):
            if f"bn_after/{torch_name}.{torch_leaf}" in expected.files:
                wanted = expected[f"bn_after/{torch_name}.{torch_leaf}"]
                layer = functools.reduce(lambda tree, key: tree[key], flax_name.split("/"), batch_stats)
                found = np.asarray(layer[leaf])
                worst = np.abs(found - wanted).max() / np.abs(wanted).max()
                assert worst <= GOLDEN_TOLERANCE, f"{flax_name} {leaf}: {worst}"
                checked += 1
    assert checked == 86


@pytest.mark.slow
@pytest.mark.parametrize("file", TRAINING_ATTACKS)
def test_first_step_of_training_attack_equals_the_twins(file, golden, published_pt, float64):
    """In float64: in float32 a ReLU whose input rounds across 0 moves single pixels by up to 3e-5."""
    found, wanted = _first_steps(file, golden, published_pt, np.float64)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=STEP_TOLERANCE)


@pytest.mark.parametrize("file", ["advtrain_l2.npz", pytest.param("advtrain_l2min_half.npz", marks=pytest.mark.slow)])
def test_first_step_of_training_attack_in_float32(file, golden, published_pt):
    found, wanted = _first_steps(file, golden, published_pt, np.float32)
    rms = np.sqrt(np.square(found - wanted).mean((1, 2, 3)))
    assert rms.max() <= FIRST_STEP_TOLERANCE
    if "all" in TRAINING_ATTACKS[file][0]:
        np.testing.assert_allclose(found, wanted, rtol=0, atol=FIRST_STEP_TOLERANCE)
    assert np.abs(found).max() > 10 * FIRST_STEP_TOLERANCE


def _first_steps(file, golden, published_pt, dtype):
    """The perturbation after one step, by the project's loop and by the twin's."""
    from advx_jax.convert import read_pt

    name, attack, twin_run = TRAINING_ATTACKS[file]
    expected = golden(file)
    classifier, _ = read_pt(published_pt(name))
    classifier = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), classifier)
    # Few images: what is compiled quickly runs slowly, and neither side needs the golden batch.
    few = slice(FIRST_STEP_IMAGES)
    x = expected["images_u8"][few].astype(dtype) / dtype(255)
    y = expected["labels"][few].astype(np.int32)
    attacked = expected["attacked"][few]
    assert attacked.any()

    @jax.jit
    def one_step(classifier, x, y, attacked):
        state = attack.init(None, x, y, None, classifier.variables["batch_stats"])
        return attack.training_step(classifier.in_training_mode, x, y, state, attacked).perturbation

    found = np.asarray(one_step(classifier, x, y, attacked))
    twin, _ = load_published(published_pt(name))
    wanted = twin_run(
        twin.to(torch.float64 if dtype is np.float64 else torch.float32).train(),
        to_torch(x),
        torch.tensor(expected["labels"][few]),
        eps=attack.eps,
        steps=attack.steps,
        attacked=torch.tensor(attacked),
        keep_trajectory=True,
    ).trajectory[1]
    assert found.dtype == dtype
    return found, to_numpy(wanted)
