"""One training step against the golden files and the PyTorch twin, with the random draws injected."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import TINY, random_classifier
from recipes import PUBLISHED_RECIPES, published_recipe, tiny_recipe

from advx_jax.networks.classifier import Provenance
from advx_jax.networks.registry import resolve_network
from advx_jax.training.draws import Draws
from advx_jax.training.state import initial_state, make_optimizer
from advx_jax.training.step import AXIS, Examples, attack_examples, descend

# What the issue of record demands of float32 on ResNet-44.
LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-3
AFTER_TOLERANCE = 1e-5
SIX_DIGITS = 1e-6
# Float64 leaves nothing but rounding.
FLOAT64_TOLERANCE = 1e-9
# Relative, of a penalty and its gradient in bfloat16, which has 8 bits: a few steps of rounding.
BFLOAT16_TOLERANCE = 0.1


def injected(n, random_logit=None, tandem=None, attacked=None):
    """Draws as given; no augmentation takes part in what is tested here."""
    zeros = np.zeros(n, np.int32)
    return Draws(
        flip=jnp.zeros(n, bool),
        offsets=jnp.zeros((n, 2), jnp.int32),
        attacked=jnp.asarray(np.ones(n, bool) if attacked is None else attacked),
        random_logit=jnp.asarray(zeros if random_logit is None else random_logit, jnp.int32),
        tandem=jnp.asarray(zeros if tandem is None else tandem).astype(bool),
    )


def compiled_on_one_device(function):
    """A step's part in the axis that it expects."""
    compiled = jax.jit(jax.vmap(function, axis_name=AXIS))

    def call(*arguments):
        found = compiled(*jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], arguments))
        return jax.tree.map(lambda leaf: leaf[0], found)

    return call


def as_state_dict(params, state, architecture):
    """Parameters (or gradients) and running statistics under the twin's names."""
    # Here, so that without PyTorch the tests that do not need it still run.
    pytest.importorskip("torch")
    from reference.flax_layout import layer_names, state_dict_from_flax
    from reference.network import ResNet as TorchResNet

    variables = {"params": params, "batch_stats": state.batch_stats, "constants": state.constants}
    robust = architecture.activation == "half_huber"
    lengths, widths = architecture.stage_lengths, architecture.stage_widths
    twin = TorchResNet(lengths, widths, architecture.n_classes, robust=robust)
    return state_dict_from_flax(jax.device_get(variables), twin, layer_names(lengths, widths))


def gradients_of(after, before, decay):
    """From the velocity of a first step, which is the gradient and the weight decay."""
    velocity = after.opt_state[1][0].trace
    return jax.tree.map(lambda v, w: v - decay * w, velocity, before.params)


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in ("standard", "robust")])
def golden_step(request, golden, published_pt):
    file = golden(f"trainstep_{request.param}.npz")
    # The golden step has learning rate 0.1, that of a batch of 128.
    recipe = dataclasses.replace(published_recipe(request.param), batch_size=128)
    optimizer = make_optimizer(recipe, 98)
    network = resolve_network(str(published_pt(f"resnet44-{request.param}")))
    before = initial_state(recipe, optimizer, network[:2])
    labels = file["labels"]
    images = file["images_u8"].astype(np.float32) / np.float32(255)
    examples = Examples(jnp.asarray(images), jnp.asarray(labels, jnp.int32), None)
    drawn = [file[name] for name in ("random_logit", "tandem") if name in file]
    draws = injected(len(labels), *drawn)
    after, metrics = compiled_on_one_device(lambda *rest: descend(recipe, optimizer, *rest))(before, examples, draws)
    return file, recipe, before, after, metrics


def test_golden_class_loss(golden_step):
    file, _, _, _, metrics = golden_step
    loss = file["class_loss"].mean()
    assert abs(metrics.class_loss - loss) <= LOSS_TOLERANCE + LOSS_TOLERANCE * loss
    assert metrics.n_correct == (file["logits_train_mode"].argmax(1) == file["labels"]).sum()


def test_golden_gradients(golden_step):
    file, recipe, before, after, _ = golden_step
    gradients = gradients_of(after, before, recipe.optimizer.weight_decay)
    found = as_state_dict(gradients, after, recipe.architecture)
    names = [name for name in file if name.startswith("grad/")]
    assert len(names) == 133
    for name in names:
        error = np.linalg.norm(found[name.removeprefix("grad/")].numpy() - file[name])
        assert error <= GRADIENT_TOLERANCE * np.linalg.norm(file[name]), name


def test_golden_parameters_and_running_statistics(golden_step):
    file, recipe, _, after, _ = golden_step
    found = as_state_dict(after.params, after, recipe.architecture)
    names = [name for name in file if name.startswith("after/")]
    assert len(names) == 133 + 86
    for name in names:
        np.testing.assert_allclose(found[name.removeprefix("after/")], file[name], rtol=0, atol=AFTER_TOLERANCE)


def test_golden_psi(golden_step):
    file, recipe, before, after, metrics = golden_step
    if recipe.penalty is None:
        assert (metrics.psi, metrics.penalty, after.integrator) == (0, 0, 0)
        return
    np.testing.assert_allclose(before.integrator, file["integration_before"], rtol=SIX_DIGITS)
    np.testing.assert_allclose(after.integrator, file["integration_after"], rtol=SIX_DIGITS)
    np.testing.assert_allclose(metrics.psi, file["psi_after"], rtol=SIX_DIGITS)


@pytest.fixture(scope="module", params=[pytest.param("relu", marks=pytest.mark.slow), "half_huber"])
def tiny_steps(request):
    """Three steps of a random network in float64, by both implementations, ties among the logits included."""
    torch = pytest.importorskip("torch")
    from reference.network import ResNet as TorchResNet
    from reference.train_step import make_optimiser, robust_step, standard_step

    with jax.enable_x64(True):
        robust = request.param == "half_huber"
        architecture = dataclasses.replace(TINY, activation=request.param)
        recipe = tiny_recipe("robust" if robust else "standard", architecture=architecture)
        classifier = random_classifier(3, architecture, "float64")
        optimizer = make_optimizer(recipe, 1000)
        state = initial_state(recipe, optimizer, (classifier, Provenance(psi_integrator=2.0)))
        assert state.integrator == (2 if robust else 0)
        twin = TorchResNet(architecture.stage_lengths, architecture.stage_widths, robust=robust).double()
        twin.load_state_dict(as_state_dict(classifier.variables["params"], state, architecture))
        optimiser = make_optimiser(twin, recipe.learning_rate)
        rng = np.random.default_rng(4)
        integrator, pairs = 2.0, []
        step = jax.jit(jax.vmap(lambda *rest: descend(recipe, optimizer, *rest), axis_name=AXIS))
        for _ in range(3):
            images, labels = rng.uniform(size=(6, 8, 8, 3)), rng.integers(0, 10, 6)
            random_logit, tandem = rng.integers(0, 10, 6), rng.uniform(size=6) < 0.5
            examples = Examples(images, labels.astype(np.int32), None)
            arguments = (state, examples, injected(6, random_logit, tandem))
            state, metrics = jax.tree.map(
                lambda leaf: leaf[0], step(*jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], arguments))
            )
            x, y = torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(labels)
            if robust:
                reference = robust_step(
                    twin, optimiser, x, y, random_logit=torch.tensor(random_logit), tandem=torch.tensor(tandem),
                    integrator=integrator,
                )  # fmt: skip
                integrator = reference.integrator
            else:
                reference = standard_step(twin, optimiser, x, y)
            tensors = {name: value.detach().clone() for name, value in twin.state_dict().items()}
            pairs.append((as_state_dict(state.params, state, architecture), tensors, metrics, reference))
        return pairs


def test_three_steps_equal_the_twin(tiny_steps):
    for found, expected, metrics, reference in tiny_steps:
        for name, value in found.items():
            if not name.endswith("num_batches_tracked"):
                np.testing.assert_allclose(value, expected[name], rtol=0, atol=FLOAT64_TOLERANCE, err_msg=name)
        np.testing.assert_allclose(metrics.class_loss, reference.class_loss.mean(), rtol=FLOAT64_TOLERANCE)
        np.testing.assert_allclose(metrics.psi, reference.psi, rtol=FLOAT64_TOLERANCE)
        np.testing.assert_allclose(metrics.integrator, reference.integrator, rtol=FLOAT64_TOLERANCE, atol=0)


class SmallBatch:
    """Four random images of 8x8 with all that is drawn for them, and padding behind them if wanted."""

    def __init__(self, n_padding=0, padding=0.5):
        rng = np.random.default_rng(5)
        self.images = np.full((4 + n_padding, 8, 8, 3), padding)
        self.images[:4] = rng.uniform(size=(4, 8, 8, 3))
        behind = (0, n_padding)
        self.labels = np.pad(rng.integers(0, 10, 4), behind).astype(np.int32)
        self.real = np.arange(4 + n_padding) < 4 if n_padding else None
        attacked = np.array([True, False, True, True])
        drawn = rng.integers(0, 10, 4), np.array([True, False, False, True]), attacked
        self.draws = injected(4 + n_padding, *(np.pad(values, behind) for values in drawn))


@functools.cache
def whole_step(recipe):
    """Compiled once, however often it is made."""
    optimizer = make_optimizer(recipe, 1000)

    def whole(state, examples, draws):
        if recipe.attack.kind != "none":
            state, examples = attack_examples(recipe, state, examples, draws)
        return *descend(recipe, optimizer, state, examples, draws), examples.images

    return compiled_on_one_device(whole)


def small_step(recipe, batch):
    """One step of a tiny random network, its attack included: states before and after, metrics, attacked images."""
    dtype = "float64" if jax.config.jax_enable_x64 else "float32"
    classifier = random_classifier(5, recipe.architecture, dtype)
    before = initial_state(recipe, make_optimizer(recipe, 1000), (classifier, Provenance(psi_integrator=1.0)))
    examples = Examples(batch.images.astype(dtype), batch.labels, batch.real)
    return before, *whole_step(recipe)(before, examples, batch.draws)


# What all recipes do, one of them does.
@pytest.mark.parametrize(
    "name",
    [name if name == "adv_train" else pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED_RECIPES],
)
def test_padding_changes_nothing_whatever_it_holds(name):
    with jax.enable_x64(True):
        recipe = tiny_recipe(name)
        _, *expected, _ = small_step(recipe, SmallBatch())
        for padding in (0.5, 1e3):
            _, *found, _ = small_step(recipe, SmallBatch(2, padding))
            for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=FLOAT64_TOLERANCE, atol=FLOAT64_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "passes"), [("standard", 1), ("robust", 1), ("adv_train", 8), ("all", 9)])
def test_every_pass_of_the_attack_moves_the_running_statistics(name, passes):
    """The stem's statistics see the clean image first: after p passes they kept 0.9^p of where they began."""
    recipe = dataclasses.replace(tiny_recipe(name), attack=dataclasses.replace(tiny_recipe(name).attack, eps=1e-12))
    with jax.enable_x64(True):
        before, after, _, _ = small_step(recipe, SmallBatch())
        _, once, _, _ = small_step(tiny_recipe("standard", architecture=recipe.architecture), SmallBatch())
    first = ("stage1_block1", "bn1", "mean")

    def statistic(state):
        return np.asarray(state.batch_stats[first[0]][first[1]][first[2]])

    batch_mean = statistic(before) + (statistic(once) - statistic(before)) / 0.1
    expected = batch_mean + 0.9**passes * (statistic(before) - batch_mean)
    # The perturbations are tiny, but there.
    np.testing.assert_allclose(statistic(after), expected, rtol=1e-6)


def test_half_half_attacks_the_drawn_examples_and_leaves_the_others_alone():
    recipe, batch = tiny_recipe("all"), SmallBatch()
    # The bounded attack moves every image that it is given; the minimum-norm one only those that are right.
    recipe = dataclasses.replace(recipe, attack=dataclasses.replace(recipe.attack, kind="l2"))
    _, _, _, seen = small_step(recipe, batch)
    changed = np.abs(np.asarray(seen) - batch.images.astype(np.float32)).max((1, 2, 3)) > 0
    np.testing.assert_array_equal(changed, batch.draws.attacked)


@pytest.mark.slow
def test_bfloat16_keeps_parameters_statistics_and_losses_in_float32():
    recipe = tiny_recipe("robust")
    before, exact, expected, _ = small_step(recipe, SmallBatch())
    _, rounded, metrics, _ = small_step(dataclasses.replace(recipe, compute_dtype="bfloat16"), SmallBatch())
    assert {leaf.dtype for leaf in jax.tree.leaves((rounded.params, rounded.batch_stats))} == {jnp.dtype("float32")}
    assert {metrics.class_loss.dtype, metrics.penalty.dtype, metrics.psi.dtype} == {jnp.dtype("float32")}
    assert metrics.penalty != expected.penalty
    np.testing.assert_allclose(metrics.class_loss, expected.class_loss, rtol=BFLOAT16_TOLERANCE)
    np.testing.assert_allclose(metrics.penalty, expected.penalty, rtol=BFLOAT16_TOLERANCE)
    moved = jax.tree.map(lambda after, start: np.asarray(after - start).ravel(), exact.params, before.params)
    other = jax.tree.map(lambda after, start: np.asarray(after - start).ravel(), rounded.params, before.params)
    a, b = (np.concatenate(jax.tree.leaves(tree)) for tree in (moved, other))
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 1 - BFLOAT16_TOLERANCE
