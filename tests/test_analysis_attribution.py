"""Attributions: of a linear classifier, where all are known on paper; of small networks, by their properties."""

import functools
import json
import re
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from networks import random_classifier
from parametrised import some

import advx_jax as ax
from advx_jax.analysis.attribution import (
    METHODS,
    VARIANTS,
    AdversarialExplanation,
    Attribution,
    ExpectedGradients,
    GradCAM,
    Gradient,
    InputXGradient,
    IntegratedGradients,
    Occlusion,
    SmoothGrad,
    VarGrad,
    as_attribution,
    attribute_images,
    baseline_images,
    completeness_gap,
    find_method,
    layers_of,
)
from advx_jax.analysis.row_cost import row_bytes
from advx_jax.attacks import EXPLANATION, EXPLANATIONS, Misclassified, PublishedBounded, example_keys
from advx_jax.errors import UserError

SHAPE, K, N = (6, 5, 2), 3, 5
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(N, *SHAPE)).astype(np.float32)
TARGETS = np.array([0, 2, 1, 1, 0], np.int32)
WEIGHTS = RNG.normal(size=(*SHAPE, K)).astype(np.float32)
# ∂z_t/∂x of each image.
SLOPES = np.moveaxis(WEIGHTS, -1, 0)[TARGETS]
BACKGROUND = RNG.uniform(size=(4, *SHAPE)).astype(np.float32)
BASELINES = ("black", "mean", "blurred", "random")
# In float32.
TOLERANCE = 2e-5


def linear(images):
    return jnp.einsum("bhwc,hwck->bk", images, WEIGHTS, precision="highest") + jnp.arange(3.0)


class Net(nn.Module):
    """Convolutions in blocks, one of them called twice."""

    n_classes: int = K

    @nn.compact
    def __call__(self, x):
        x = nn.softplus(nn.Conv(4, (3, 3), name="stem")(x))
        block = Block(name="block")
        x = block(block(x))
        return nn.Dense(self.n_classes, name="head")(nn.tanh(x).mean((1, 2)))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + nn.softplus(nn.Conv(x.shape[-1], (3, 3), name="conv")(x))


@pytest.fixture(scope="module")
def net():
    module = Net()
    return ax.from_linen(module, module.init(jax.random.key(3), IMAGES))


# As cheap as they can be.
QUICK = {
    **METHODS,
    "integrated_gradients": IntegratedGradients(steps=3, baseline="random"),
    "smoothgrad": SmoothGrad(samples=3),
    "vargrad": VarGrad(samples=3),
    "occlusion": Occlusion(window=3, stride=2),
    "expected_gradients": ExpectedGradients(background=BACKGROUND, samples=3),
    "adversarial": AdversarialExplanation(attack=EXPLANATION.with_settings(steps=3)),
}
each_method = pytest.mark.parametrize("name", METHODS)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


# On paper.


def test_gradient_of_a_linear_model_is_its_weights():
    close(Gradient()(linear, IMAGES, TARGETS), SLOPES)
    close(SmoothGrad(samples=2)(linear, IMAGES, TARGETS), SLOPES)
    assert np.abs(VarGrad(samples=2)(linear, IMAGES, TARGETS)).max() < TOLERANCE


def test_input_x_gradient_of_a_linear_model_adds_up_to_the_logit():
    found = InputXGradient()(linear, IMAGES, TARGETS)
    close(found, IMAGES * SLOPES)
    logits = np.asarray(linear(IMAGES))[range(N), TARGETS]
    close(found.sum((1, 2, 3)) + TARGETS, logits)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize(("rule", "steps"), [("gauss_legendre", 1), ("midpoint", 3), ("squares", 3)])
def test_integrated_gradients_of_a_linear_model_are_complete_from_one_step_on(baseline, rule, steps):
    key = jax.random.key(7)
    method = IntegratedGradients(steps=steps, rule=rule, baseline=baseline)
    found, baselines = method(linear, IMAGES, TARGETS, key), method.baselines(IMAGES, key)
    close(found, (IMAGES - baselines) * SLOPES)
    gaps = completeness_gap(linear, IMAGES, TARGETS, found, baselines)
    assert gaps.shape == (N,)
    assert gaps.max() < 1e-4
    assert completeness_gap(linear, IMAGES, TARGETS, 1.1 * found, baselines).max() > 0.09


def test_baselines_are_what_they_are_called():
    keys, images = example_keys(None, jnp.arange(N)), jnp.asarray(IMAGES)
    made = {name: np.asarray(baseline_images(name, images, keys, 2.0)) for name in BASELINES}
    assert not made["black"].any()
    close(made["mean"], np.broadcast_to(IMAGES.mean((1, 2), keepdims=True), IMAGES.shape))
    assert ((made["random"] >= 0) & (made["random"] < 1)).all()
    # A Gaussian with σ = 2, weights in the mean at a position adding up to 1.
    rows, columns = (np.exp(-np.square(np.arange(n)[:, None] - np.arange(n)) / 8) for n in SHAPE[:2])
    rows, columns = rows / rows.sum(1, keepdims=True), columns / columns.sum(1, keepdims=True)
    close(made["blurred"], np.einsum("ih,jw,bhwc->bijc", rows, columns, IMAGES))
    # So narrow that nothing is blurred.
    close(baseline_images("blurred", images, keys, 1e-3), IMAGES)


def test_expected_gradients_of_a_linear_model_are_those_from_the_images_drawn():
    one = ExpectedGradients(background=BACKGROUND[:1], samples=2)(linear, IMAGES, TARGETS)
    close(one, (IMAGES - BACKGROUND[:1]) * SLOPES)
    many = ExpectedGradients(background=BACKGROUND, samples=4000)(linear, IMAGES, TARGETS)
    away = np.abs(many - (IMAGES - BACKGROUND.mean(0)) * SLOPES).max()
    assert away < 0.05 * np.abs(SLOPES).max()


@pytest.mark.parametrize(("window", "stride", "fill"), [(2, 2, 0.0), ((3, 2), (2, 1), 0.5), ((6, 5), 1, 1.0)])
def test_occlusion_of_a_linear_model_is_the_mean_loss_of_the_windows_over_each_position(window, stride, fill):
    method = Occlusion(window=window, stride=stride, fill=fill)
    (rows, columns), (down, right) = method.window, method.stride
    losses, counts = np.zeros((N, *SHAPE[:2])), np.zeros(SHAPE[:2])
    n_windows = 0
    for row in range(0, SHAPE[0] - rows + down, down):
        for column in range(0, SHAPE[1] - columns + right, right):
            place = np.s_[row : row + rows, column : column + columns]
            covered = ((IMAGES - fill) * SLOPES)[:, *place]
            losses[:, *place] += covered.sum((1, 2, 3))[:, None, None]
            counts[place] += 1
            n_windows += 1
    assert counts.all()
    assert method.passes(SHAPE) == 1 + n_windows
    close(method(linear, IMAGES, TARGETS), losses / counts)


def test_adversarial_explanation_of_a_linear_model_goes_along_the_difference_of_weights():
    def two_classes(images):
        return linear(images)[:, :2]

    targets = TARGETS.clip(0, 1)
    found = np.asarray(AdversarialExplanation()(two_classes, IMAGES, targets))
    towards = (WEIGHTS[..., 0] - WEIGHTS[..., 1]) * np.where(targets == 0, 1, -1)[:, None, None, None]
    cosines = (found * towards).sum((1, 2, 3)) / np.sqrt(np.square(found).sum((1, 2, 3)) * np.square(towards[0]).sum())
    np.testing.assert_allclose(cosines, 1, atol=1e-5)
    # ρ, up to the length of a step.
    np.testing.assert_allclose(np.sqrt(np.square(found).mean((1, 2, 3))), 0.1, rtol=0.1)


class Maps(nn.Module):
    """Logits that are linear in the mean of feature maps, so that Grad-CAM is known."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(K, name="head")(nn.Conv(4, (3, 3), (2, 1), name="maps")(x).mean((1, 2)))


def test_grad_cam_of_pooled_maps_is_their_sum_weighted_by_the_head():
    module = Maps()
    variables = module.init(jax.random.key(0), IMAGES)
    maps = nn.Conv(4, (3, 3), (2, 1)).apply({"params": variables["params"]["maps"]}, IMAGES)
    weights = variables["params"]["head"]["kernel"][:, TARGETS].T / (3 * 5)
    expected = np.einsum("bhwk,bk->bhw", maps, weights)
    model = ax.from_linen(module, variables)
    close(GradCAM(upsample=False)(model, IMAGES, TARGETS), expected)
    close(GradCAM(upsample=False, layer="maps")(model, IMAGES, TARGETS), expected)
    close(GradCAM(upsample=False, positive_only=True)(model, IMAGES, TARGETS), np.maximum(expected, 0))
    shown = GradCAM()(model, IMAGES, TARGETS)
    assert shown.shape == (N, *SHAPE[:2])
    # Rows are doubled: a quarter of the way from a row to its neighbour.
    close(shown[:, 1:3], np.stack([0.75 * expected[:, 0] + 0.25 * expected[:, 1],
                                   0.25 * expected[:, 0] + 0.75 * expected[:, 1]], 1))  # fmt: skip


# Whatever the network.


ALIKE = ("input_x_gradient", "vargrad", "smoothgrad", "expected_gradients")


# These differ from those that stay in what they make of the same gradients.
@some("name", METHODS, by_default=METHODS.keys() - ALIKE)
def test_every_method_gives_one_result_however_images_targets_and_batches_come(name, net):
    """Alone, among others, compiled, mapped, with several targets, with a key for each image."""
    method, key = QUICK[name], jax.random.key(5)
    keys = example_keys(key, jnp.arange(N))
    alone = np.asarray(method(net, IMAGES, TARGETS, key))
    assert alone.shape == (IMAGES.shape[:3] if method.is_spatial else IMAGES.shape)
    assert np.isfinite(alone).all()
    assert np.abs(alone).max() > 0
    close(attribute_images(net, IMAGES, TARGETS, method, key), alone)
    close(attribute_images(net, IMAGES[2:4], TARGETS[2:4], method, keys[2:4]), alone[2:4])
    several = attribute_images(net, IMAGES, np.stack([TARGETS, (TARGETS + 1) % K], 1), method, key)
    assert several.shape == (N, 2, *alone.shape[1:])
    close(several[:, 0], alone)
    assert np.abs(several[:, 1] - alone).max() > 100 * TOLERANCE * np.abs(alone).max()

    def of_one(image, target, key):
        return method.attribute(net, image[None], target[None], key[None])[0]

    close(jax.jit(jax.vmap(of_one))(IMAGES, TARGETS, keys), alone)


@each_method
def test_other_keys_give_other_results_where_a_method_says_so(name, net):
    method = QUICK[name]
    one, same, other = (method(net, IMAGES, TARGETS, jax.random.key(seed)) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any() == method.is_random


@pytest.mark.parametrize(
    "name",
    [
        "vargrad",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("integrated_gradients", "smoothgrad", "expected_gradients")
        ),
    ],
)
def test_memory_does_not_depend_on_steps(name, net):
    method = QUICK[name]
    count = "steps" if name == "integrated_gradients" else "samples"
    keys = example_keys(None, jnp.arange(N))

    def bytes_of(many):
        attribute = method.with_settings(**{count: many}).attribute
        compiled = jax.jit(functools.partial(attribute, net)).lower(IMAGES, TARGETS, keys).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = bytes_of(4), bytes_of(64)
    assert few > IMAGES.nbytes
    # What is known of each step is a number or two.
    assert many - few < IMAGES.nbytes


def test_memory_of_chunks_counts_what_a_method_needs(net):
    """A pass through the network alone is too little, and more steps are no more."""

    def once(method, images):
        keys = example_keys(None, jnp.arange(len(images)))
        return method.attribute(net, images, jnp.zeros(len(images), jnp.int32), keys)

    def cost(method):
        return row_bytes(functools.partial(once, method), IMAGES)

    assert cost(IntegratedGradients(steps=4)) > row_bytes(net, IMAGES)
    assert cost(IntegratedGradients(steps=64)) < 1.05 * cost(IntegratedGradients(steps=4))


def test_targets_that_do_not_fit_together_are_attributed_in_groups(net, monkeypatch):
    targets = np.tile(np.arange(K), (N, 1))
    whole = attribute_images(net, IMAGES, targets, Gradient())
    done = []
    monkeypatch.setenv("ADVX_LANES", "1")
    keys = example_keys(None, jnp.arange(16))
    cost = row_bytes(lambda images: Gradient().attribute(net, images, jnp.zeros(16, jnp.int32), keys), IMAGES)
    monkeypatch.setenv("ADVX_MEMORY", f"{int(4.5 * cost / 1000) + 1}kB")
    parts = attribute_images(net, IMAGES, targets, Gradient(), on_progress=done.append)
    assert len(done) > 2
    assert sum(done) == pytest.approx(N)
    close(parts, whole)


def test_integrated_gradients_of_a_network_are_complete():
    classifier = random_classifier()
    images = jax.random.uniform(jax.random.key(0), (5, 8, 8, 3))
    method, targets = IntegratedGradients(steps=64), jnp.arange(5)
    found = attribute_images(classifier, images, targets, method)
    assert completeness_gap(classifier, images, targets, found, method.baselines(images)).max() < 0.01


def test_no_images_give_no_attributions(net):
    assert attribute_images(net, IMAGES[:0], TARGETS[:0], Gradient()).shape == (0, *SHAPE)
    assert attribute_images(net, IMAGES[:0], np.zeros((0, 2), int), Occlusion(window=2)).shape == (0, 2, *SHAPE[:2])


# Grad-CAM of any Linen module.


def test_layers_of_a_classifier_and_of_a_wrapped_module_are_known(net):
    assert list(layers_of(net, IMAGES)) == ["stem", "block/conv", "block", "head"]
    layers = layers_of(random_classifier(), np.zeros((2, 8, 8, 3), np.float32))
    assert layers["stage2_block1"].shape == (2, 4, 4, 6)
    assert not layers["head"].is_spatial
    assert layers["stage2_block1/conv2"].depth == 1


def test_grad_cam_takes_the_last_block_and_the_last_call_unless_told_otherwise(net):
    default, block, inner, stem = (
        np.asarray(GradCAM(layer=layer, upsample=False)(net, IMAGES, TARGETS))
        for layer in (None, "block", "block/conv", "stem")
    )
    np.testing.assert_array_equal(default, block)
    assert np.abs(inner - block).max() > 1e-3 * np.abs(block).max()
    assert np.abs(stem - block).max() > 1e-3 * np.abs(block).max()
    # As if the last call's output were what the rest of the network gets.
    module, (_, variables) = Net(), (None, net.model.args[0])
    _, seen = module.apply(variables, IMAGES, capture_intermediates=True, mutable=["intermediates"])
    maps = seen["intermediates"]["block"]["__call__"][-1]
    head = variables["params"]["head"]["kernel"]
    slopes = jax.grad(lambda maps: (nn.tanh(maps).mean((1, 2)) @ head)[jnp.arange(N), TARGETS].sum())(maps)
    close(block, (slopes.mean((1, 2), keepdims=True) * maps).sum(-1))


def test_grad_cam_sees_through_what_was_compiled_before(net):
    module, variables = Net(), net.model.args[0]
    compiled = jax.jit(module.apply)

    def model(images):
        return compiled(variables, images)

    model(jnp.asarray(IMAGES))
    expected = GradCAM()(net, IMAGES, TARGETS)
    for _ in range(2):
        close(GradCAM()(model, IMAGES, TARGETS), expected)
    close(model(jnp.asarray(IMAGES)), module.apply(variables, IMAGES))


def test_grad_cam_of_blocks_that_are_computed_twice_to_save_memory():
    class Saving(nn.Module):
        block: type[nn.Module]

        @nn.compact
        def __call__(self, x):
            return nn.Dense(K, name="head")(self.block(name="block")(x).mean((1, 2)))

    plain, saving = Saving(Block), Saving(nn.remat(Block))
    variables = plain.init(jax.random.key(0), IMAGES)
    expected = GradCAM()(ax.from_linen(plain, variables), IMAGES, TARGETS)
    model = ax.from_linen(saving, variables)
    close(GradCAM()(model, IMAGES, TARGETS), expected)
    inside = GradCAM(layer="block/conv")
    close(inside(model, IMAGES, TARGETS), inside(ax.from_linen(plain, variables), IMAGES, TARGETS))


# Names and messages.


def _unchecked(**settings):
    """Make a method as it is made where nobody checks types of arguments."""
    method = object.__new__(IntegratedGradients)
    for name, value in {"steps": 64, "rule": "squares", "baseline": "black", "blur": 4.0, **settings}.items():
        object.__setattr__(method, name, value)
    method.__post_init__()


def test_methods_have_the_names_that_they_are_found_by():
    assert list(METHODS) == [
        *("gradient", "input_x_gradient", "integrated_gradients", "smoothgrad", "vargrad"),
        *("grad_cam", "occlusion", "expected_gradients", "adversarial"),
    ]
    assert find_method("Integrated-Gradients") == IntegratedGradients()
    assert QUICK["integrated_gradients"].passes(SHAPE) == 9
    assert SmoothGrad(samples=5, of=IntegratedGradients(steps=2)).passes(SHAPE) == 30
    assert METHODS["adversarial"].passes(SHAPE) == 105
    for method in QUICK.values():
        assert json.loads(json.dumps(method.settings()))["method"] == method.name


def test_variants_have_the_names_that_they_are_found_by(net):
    assert list(VARIANTS) == ["adversarial_linf", "adversarial_l1.5", "adversarial_magnitude", "saliency", "random"]
    assert find_method("Adversarial-L1.5").attack is EXPLANATIONS["L1.5"]
    gradient = Gradient()(net, IMAGES, TARGETS)
    np.testing.assert_array_equal(find_method("saliency")(net, IMAGES, TARGETS), np.abs(gradient))
    drawn = find_method("random")(net, IMAGES, TARGETS, jax.random.key(1))
    assert drawn.shape == IMAGES.shape
    # Whatever stands beside it in the batch.
    keys = example_keys(jax.random.key(1), jnp.arange(2, 3))
    np.testing.assert_array_equal(find_method("random")(net, IMAGES[2:3], TARGETS[2:3], keys), drawn[2:3])


def test_a_method_of_ones_own_is_found_by_its_place(monkeypatch):
    class Own(Attribution):
        def attribute(self, model, images, targets, keys):
            return jnp.ones_like(images)

    module = types.ModuleType("own_attributions")
    module.Own, module.made, module.number, module.other = Own, Own(), 3, dict
    monkeypatch.setitem(sys.modules, "own_attributions", module)
    for name in ("Own", "made"):
        assert isinstance(find_method(f"own_attributions:{name}"), Own)
    for name, kind in (("number", "int"), ("other", "dict")):
        with pytest.raises(UserError, match=f"to be an advx_jax.attribution.Attribution, got {kind}"):
            find_method(f"own_attributions:{name}")


def with_net(method):
    return lambda net: method(net, IMAGES, TARGETS)


def over_images(targets):
    return lambda net: attribute_images(net, IMAGES, targets, Gradient())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: find_method("smothgrad"), r"expected an attribution \(gradient, .*; did you mean smoothgrad\?"),
        (lambda net: IntegratedGradients(steps=0), "expected at least 1 step, got 0"),
        (lambda net: _unchecked(rule="simpson"), "squares or midpoint or gauss_legendre as rule, got 'simpson'"),
        (lambda net: _unchecked(baseline="white"), "black or mean or blurred or random as baseline, got 'white'"),
        (lambda net: SmoothGrad(sigma=-1.0), "expected sigma above 0, got -1.0"),
        (lambda net: SmoothGrad(samples=0), "expected at least 1 sample, got 0"),
        (lambda net: Occlusion(fill=2.0), "expected fill from 0 to 1, got 2.0"),
        (lambda net: Occlusion(window=0), r"window as a positive number of pixels or \(rows, columns\), got 0"),
        (lambda net: Gradient().with_settings(steps=3), r"of the attribution gradient \(it has none\), got steps"),
        (with_net(Occlusion(window=6)), "expected a window of at most the image's width 5, got 6"),
        (with_net(Occlusion(window=2, stride=3)), "expected a stride of at most the window's height 2, got 3"),
        (with_net(ExpectedGradients()), "expected background images for expected_gradients, .* got none"),
        (with_net(ExpectedGradients(background=np.uint8(255 * BACKGROUND))), "background images as .*: divide by 255"),
        (with_net(ExpectedGradients(background=255 * BACKGROUND)), r"background images in \[0,1\], got values from"),
        (with_net(ExpectedGradients(background=np.nan * BACKGROUND)), r"background images in \[0,1\], got NaN"),
        (with_net(ExpectedGradients(background=BACKGROUND[0])), r"of shape \(number, 6, 5, 2\), got \(6, 5, 2\)"),
        (with_net(GradCAM(layer="blok")), r"\(stem, block, and those inside\), got 'blok'; did you mean b"),
        (with_net(GradCAM(layer="head")), r"a layer with feature maps .* got 'head', which gives shape \(5, 3\)"),
        (lambda net: GradCAM()(linear, IMAGES, TARGETS), "expected a network of Flax Linen modules .* got none"),
        (with_net(SmoothGrad(of=Occlusion(window=9))), "expected a window of at most the image's height 6, got 9"),
        (
            with_net(AdversarialExplanation(attack=PublishedBounded(criterion=Misclassified()))),
            r"the criterion Targeted\(\) for explanations, got misclassified",
        ),
        (
            lambda net: Occlusion()(lambda x: x[:, :3], IMAGES.reshape(N, -1), TARGETS),
            r"shape \(batch, height, width, channels\) for occlusion, got images of shape \(60,\) each",
        ),
        (lambda net: Gradient()(net, IMAGES, TARGETS + 1), "expected targets from 0 to 2, got 3"),
        (lambda net: Gradient()(net, 255 * IMAGES, TARGETS), "expected images in .* divide by 255"),
        (lambda net: as_attribution("gradient"), "expected an attribution such as .* got 'gradient'"),
        (over_images(TARGETS[:-1]), "expected one target for each of 5 images"),
        (over_images(np.eye(K, dtype=int)[TARGETS]), "expected targets as class numbers, got them as if one-hot"),
        (over_images(TARGETS[:, None] + 9), "expected targets from 0 to 2, got 11"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(call, message, net):
    with pytest.raises(UserError, match=message) as raised:
        call(net)
    assert "\n" not in str(raised.value)


def test_costs_in_the_documents_are_those_of_the_code():
    text = (Path(__file__).parents[1] / "docs" / "attributions.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `(\w+)` \| `(\w+)` \|.*\| (\d+) \| arXiv [\d.]+ \|$", text, flags=re.MULTILINE)
    known = [(name, type(method).__name__, str(method.passes((32, 32, 3)))) for name, method in METHODS.items()]
    assert told == known
