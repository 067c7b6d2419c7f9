"""The Flax network against the PyTorch twin, layer by layer, and its derivatives against finite differences.

With the published weights in float32, and with a small random network in float64, where what is left of the rounding
cannot hide a mistake.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from jax import lax
from jax.flatten_util import ravel_pytree

torch = pytest.importorskip("torch")


from reference.flax_layout import layer_names, state_dict_from_flax
from reference.images import to_numpy, to_torch
from reference.network import HalfHuberReLU
from reference.network import ResNet as Twin
from reference.published import load_published
from reference.train_step import lipschitz_penalty

from advx_jax.convert import read_pt
from advx_jax.networks import convolution, kernel_gradients
from advx_jax.networks.activations import half_huber_relu
from advx_jax.networks.column_groups import grouped_columns
from advx_jax.networks.convolution import convolve
from advx_jax.networks.resnet import ResNet, ResNetArchitecture

PUBLISHED = ("resnet44-standard", "resnet44-adv-train", "resnet44-all", "resnet44-robust")
N_IMAGES = 4


@dataclasses.dataclass(frozen=True)
class Tolerances:
    """Largest allowed differences, as a fraction of the largest entry of the tensor compared."""

    layer: float
    input_gradient: float
    penalty_gradient: float


# Seen: 2e-6, 1e-6 and 1e-5. Sums of up to 576 products in different orders, 44 layers deep, twice differentiated.
FLOAT32 = Tolerances(layer=2e-5, input_gradient=2e-5, penalty_gradient=1e-4)
# Seen in training mode: 2e-3. Where rounding takes one value across 0 the ReLU's slope jumps, and through the batch
# statistics that reaches every pixel.
FLOAT32_RELU = dataclasses.replace(FLOAT32, input_gradient=2e-2)
# Seen: 3e-15, 3e-15 and 8e-15.
FLOAT64 = Tolerances(layer=1e-13, input_gradient=1e-13, penalty_gradient=1e-12)
# Central differences of float64; the error, relative to the derivative, falls with the step's square down to here.
STEP = 1e-6
# Seen: 8e-9.
DIFFERENCE_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Pair:
    """The same network twice, and what to feed it."""

    architecture: ResNetArchitecture
    variables: dict
    twin: Twin
    images: np.ndarray
    labels: np.ndarray
    tolerances: Tolerances

    @property
    def names(self):
        return layer_names(self.architecture.stage_lengths, self.architecture.stage_widths)

    def torch_inputs(self):
        return to_torch(self.images), torch.tensor(self.labels)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    # Threads that wait for one another spin: two of them on a busy machine are a hundred times slower than one.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pair(request):
    """By name: a published network, or a tiny one with that activation (in float64, which ends with the test)."""
    if request.param in PUBLISHED:
        yield published_pair(request.param, request.getfixturevalue("published_pt"), request.getfixturevalue("golden"))
    else:
        with jax.enable_x64(True):
            yield tiny_pair(request.param)


def published_pair(name, published_pt, golden):
    classifier, _ = read_pt(published_pt(name))
    twin, _ = load_published(published_pt(name))
    file = golden("images_test_first256.npz")
    images = file["images_u8"][:N_IMAGES].astype(np.float32) / np.float32(255)
    labels = file["labels"][:N_IMAGES].astype(np.int64)
    tolerances = FLOAT32_RELU if classifier.architecture.activation == "relu" else FLOAT32
    return Pair(classifier.architecture, classifier.variables, twin, images, labels, tolerances)


def tiny_pair(activation):
    architecture = ResNetArchitecture((1, 2), (4, 6), n_classes=5, activation=activation)
    rng = np.random.default_rng(0)
    # Odd sizes, so that stride 2 meets both kinds of edge.
    images, labels = rng.random((3, 9, 7, 3)), rng.integers(5, size=3)
    shapes = jax.eval_shape(ResNet(architecture).init, jax.random.key(0), jnp.asarray(images))
    variables = jax.tree_util.tree_map_with_path(functools.partial(random_leaf, rng), shapes)
    twin = Twin(architecture.stage_lengths, architecture.stage_widths, 5, robust=activation == "half_huber").double()
    names = layer_names(architecture.stage_lengths, architecture.stage_widths)
    twin.load_state_dict(state_dict_from_flax(variables, twin, names), strict=True)
    return Pair(architecture, variables, twin, images, labels, FLOAT64)


def random_leaf(rng, path, leaf):
    """No zeros and no ones, which would hide mistakes; positive where it must be."""
    if path[-1].key in ("scale", "var", "std"):
        return rng.uniform(0.5, 1.5, leaf.shape)
    fan_in = np.prod(leaf.shape[:-1])
    return rng.normal(size=leaf.shape) / np.sqrt(fan_in)


@functools.cache
def flax_pass(architecture, train):
    """One forward and backward pass: input gradient of the summed cross-entropy, every layer, running statistics."""

    def loss(images, variables, labels):
        logits, changed = ResNet(architecture).apply(
            variables, images, train=train, capture_intermediates=True, mutable=["intermediates", "batch_stats"]
        )
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()
        return loss, (logits, changed["intermediates"], changed["batch_stats"])

    return jax.jit(jax.grad(loss, has_aux=True))


@functools.cache
def flax_penalty_gradient(architecture):
    """Gradient in the parameters of the mean squared input gradient of one logit an image."""

    def penalty(params, variables, images, classes):
        def chosen(images):
            logits, _ = ResNet(architecture).apply(
                variables | {"params": params}, images, train=True, mutable=["batch_stats"]
            )
            return jnp.take_along_axis(logits, classes[:, None], axis=1).sum()

        return jnp.square(jax.grad(chosen)(images)).mean()

    return jax.jit(jax.grad(penalty))


def twin_pass(pair, train):
    """As `flax_pass`; layers under the twin's module names, feature maps as NHWC."""
    layers = {}

    def keep(name, _module, _inputs, output):
        layers[name] = to_numpy(output)

    hooks = [
        pair.twin.get_submodule(name).register_forward_hook(functools.partial(keep, name))
        for name in pair.names.values()
    ]
    images, labels = pair.torch_inputs()
    images.requires_grad_()
    logits = pair.twin.train(train)(images)
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, images)
    for hook in hooks:
        hook.remove()
    return to_numpy(gradient), logits.detach().numpy(), layers


# By default one published network, and both kinds in both modes where they are tiny.
PAIRS = [
    pytest.param(name, train, marks=pytest.mark.slow if name in PUBLISHED and (name, train) not in brief else ())
    for brief in [{("resnet44-all", False)}]
    for name in (*PUBLISHED, "relu", "half_huber")
    for train in (False, True)
]


@pytest.mark.parametrize(("pair", "train"), PAIRS, indirect=["pair"])
def test_network(pair, train):
    """Every layer, in order, then what comes out: logits, input gradient, running statistics."""
    found_gradient, (found_logits, captured, statistics) = flax_pass(pair.architecture, train)(
        pair.images, pair.variables, pair.labels
    )
    gradient, logits, layers = twin_pass(pair, train)
    captured = traverse_util.flatten_dict(captured, sep="/")
    for flax_name, torch_name in pair.names.items():
        (found,) = captured[f"{flax_name}/__call__"]
        # The twin's head is a 1x1 convolution.
        expected = layers[torch_name][:, 0, 0] if flax_name == "head" else layers[torch_name]
        assert_close(found, expected, pair.tolerances.layer, flax_name)
    assert_close(found_logits, logits, pair.tolerances.layer, "logits")
    assert_close(found_gradient, gradient, pair.tolerances.input_gradient, "input gradient")

    expected = pair.twin.state_dict()
    found = state_dict_from_flax(pair.variables | {"batch_stats": statistics}, pair.twin, pair.names)
    assert found.keys() == expected.keys()
    for name in found:
        assert_close(found[name], expected[name], pair.tolerances.layer, name)


@pytest.mark.parametrize(
    "pair", [pytest.param("resnet44-robust", marks=pytest.mark.slow), "relu", "half_huber"], indirect=True
)
def test_penalty_gradient(pair):
    """The second derivative that training with the Lipschitz penalty needs."""
    variables = pair.variables
    found = flax_penalty_gradient(pair.architecture)(variables["params"], variables, pair.images, pair.labels)
    found = state_dict_from_flax(variables | {"params": found}, pair.twin, pair.names)

    images, labels = pair.torch_inputs()
    images.requires_grad_()
    tandem = torch.zeros(len(labels), dtype=torch.bool)
    logits = pair.twin.train()(images)
    lipschitz_penalty(logits, images, labels, random_logit=labels, tandem=tandem).backward()
    for name, parameter in pair.twin.named_parameters():
        # The head's bias has no part in the input gradient.
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert_close(found[name], expected, pair.tolerances.penalty_gradient, name)


def assert_close(found, expected, relative, name):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype, name
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=relative * scale, err_msg=name)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield np.random.default_rng(0)


def check_derivatives(function, point, rng):
    """First and second derivatives of an array function at a tree of arrays, along a random direction."""
    flat, restore = ravel_pytree(point)
    output_weights = rng.normal(size=jax.eval_shape(function, point).shape)
    gradient_weights, direction = rng.normal(size=(2, flat.size))

    def value(flat):
        return (function(restore(flat)) * output_weights).sum()

    def slope(flat):
        return jax.grad(value)(flat) @ gradient_weights

    @jax.jit
    def both(flat):
        return jnp.stack([value(flat), slope(flat)]), jnp.stack([jax.grad(value)(flat), jax.grad(slope)(flat)])

    derivatives = both(flat)[1] @ direction
    differences = (both(flat + STEP * direction)[0] - both(flat - STEP * direction)[0]) / (2 * STEP)
    np.testing.assert_allclose(derivatives, differences, rtol=DIFFERENCE_TOLERANCE, err_msg="first, second derivative")


def test_half_huber_relu_equals_twin(float64):
    """Value, slope and second derivative, both ends of the bowl included."""
    points = np.concatenate([float64.uniform(-1, 2, 50), [0, 0.5]])

    def derivatives(point):
        slope = jax.grad(half_huber_relu)
        return half_huber_relu(point), slope(point), jax.grad(slope)(point)

    found = jax.vmap(derivatives)(points)
    x = torch.tensor(points, requires_grad=True)
    value = HalfHuberReLU()(x)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    names = ("value", "slope", "curvature")
    for name, ours, expected in zip(names, found, (value, slope, curvature), strict=True):
        assert_close(ours, expected.detach(), FLOAT64.layer, name)
    np.testing.assert_array_equal(found[2], np.where((points > 0) & (points < 0.5), 2, 0))


@pytest.mark.parametrize("bowl_width", [0.5, 2.0])
def test_half_huber_relu_derivatives(bowl_width, float64):
    points = float64.uniform(-1, 3, 50)
    away_from_ends = np.minimum(np.abs(points), np.abs(points - bowl_width)) > 10 * STEP
    check_derivatives(lambda x: half_huber_relu(x, bowl_width), points[away_from_ends], float64)


sizes_and_strides = pytest.mark.parametrize(
    ("height", "width", "stride"), [(4, 4, 1), (5, 4, 1), (4, 4, 2), (5, 5, 2), (4, 5, 2), (1, 2, 2)]
)


def convolution_inputs(rng, height, width, extents=(3, 3)):
    return rng.normal(size=(2, height, width, 3)), rng.normal(size=(*extents, 3, 4))


@sizes_and_strides
def test_convolution_derivatives(height, width, stride, float64):
    inputs = convolution_inputs(float64, height, width)
    # The cube has a second derivative in each argument alone, too.
    check_derivatives(lambda both: convolve(*both, stride) ** 3, inputs, float64)


@sizes_and_strides
def test_convolution_equals_automatic(height, width, stride, float64):
    inputs = convolution_inputs(float64, height, width)
    check_against_automatic(inputs, stride, None, ((1, 1), (1, 1)))


@pytest.mark.parametrize(
    ("size", "stride", "extents", "padding"),
    [
        ((4, 5), 1, (1, 1), ((0, 0), (0, 0))),
        ((4, 4), 2, (1, 1), ((0, 0), (0, 0))),
        ((5, 4), 2, (1, 1), ((0, 0), (0, 0))),
        ((5, 4), 2, (1, 1), ((1, 0), (0, 2))),
        ((9, 8), 2, (7, 7), ((3, 3), (3, 3))),
        ((8, 8), 2, (3, 3), ((0, 1), (0, 1))),
        ((7, 8), 2, (3, 3), ((0, 1), (0, 1))),
        ((7, 6), 3, (2, 4), ((0, 1), (3, 0))),
        ((6, 6), 1, (3, 3), ((0, 0), (0, 0))),
    ],
)
def test_convolution_of_any_kernel_equals_automatic(size, stride, extents, padding, float64):
    check_against_automatic(convolution_inputs(float64, *size, extents), stride, padding, padding)


@sizes_and_strides
def test_convolution_of_wide_3x3_kernels_equals_automatic(height, width, stride, float64, monkeypatch):
    monkeypatch.setattr(convolution, "_LEAST_TILED", 0)
    monkeypatch.setattr(kernel_gradients, "_LEAST_TILED", 0)
    check_against_automatic(convolution_inputs(float64, height, width), stride, None, ((1, 1), (1, 1)))


@pytest.mark.parametrize("extents", [(3, 3), (1, 1), (2, 3)])
@pytest.mark.parametrize("wide", [False, True])
def test_convolution_of_many_images_equals_automatic(extents, wide, float64, monkeypatch):
    """Of so many that a CPU works on a few at a time, with and without tiles, at both strides."""
    for module in (convolution, kernel_gradients):
        monkeypatch.setattr(module, "_LEAST_TILED", 0 if wide else 100)
    monkeypatch.setattr(kernel_gradients, "_TILED_POSITIONS", 40)
    monkeypatch.setattr(kernel_gradients, "_DIRECT_CHUNK", 2)
    x, kernel = float64.normal(size=(6, 5, 4, 3)), float64.normal(size=(*extents, 3, 4))
    for stride in (1, 2):
        check_against_automatic((x, kernel), stride, ((1, 1), (0, 2)), ((1, 1), (0, 2)))


@pytest.mark.parametrize(
    ("n_images", "wanted", "length"),
    [(128, 16, 16), (128, 1, 1), (4, 20, 4), (32, 113, 32), (100, 16, 20), (31, 16, 31), (37, 16, 37), (7, 1, 1)],
)
def test_images_are_worked_on_in_equal_chunks(n_images, wanted, length):
    assert kernel_gradients.chunk_length(n_images, wanted) == length


@pytest.mark.parametrize(
    ("width", "inputs", "outputs", "columns"),
    [(32, 16, 16, 2), (32, 16, 3, 8), (32, 16, 24, 1), (32, 32, 16, 1), (6, 8, 4, 2), (7, 8, 8, 1), (32, 16, 1, 32)],
)
def test_columns_fill_32_channels_where_the_width_is_a_multiple(width, inputs, outputs, columns):
    assert grouped_columns(width, inputs, outputs) == columns


# Columns in groups, one by one, and in tiles.
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 16), (16, 3), (16, 64), (64, 64)])
def test_3x3_convolutions_are_as_exact_as_single_precision_allows(inputs, outputs):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 12, 12, inputs)).astype(np.float32)
    kernel = (rng.normal(size=(3, 3, inputs, outputs)) / (3 * inputs**0.5)).astype(np.float32)
    cotangent = rng.normal(size=(20, 12, 12, outputs)).astype(np.float32)

    found, derivatives = jax.vjp(convolve, jnp.asarray(x), jnp.asarray(kernel))
    tensors = [
        torch.from_numpy(a).double().requires_grad_() for a in (x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1))
    ]
    exact = torch.nn.functional.conv2d(*tensors, padding=1)
    gradients = torch.autograd.grad(exact, tensors, torch.from_numpy(cotangent.transpose(0, 3, 1, 2)).double())
    in_order = (exact.detach().permute(0, 2, 3, 1), gradients[0].permute(0, 2, 3, 1), gradients[1].permute(2, 3, 1, 0))
    for name, ours, expected in zip(
        ("value", "dx", "dkernel"), (found, *derivatives(jnp.asarray(cotangent))), in_order, strict=True
    ):
        expected = expected.numpy()
        scale = np.sqrt(np.mean(expected**2))
        assert np.sqrt(np.mean((ours - expected) ** 2)) < 1e-6 * scale, name
        assert np.abs(ours - expected).max() < 1e-5 * scale, name


@pytest.mark.parametrize("extent", [1, 2, 7])
def test_half_a_kernel_is_the_padding_that_nobody_asks_for(extent, float64):
    inputs = convolution_inputs(float64, 8, 9, (extent, extent))
    check_against_automatic(inputs, 2, None, ((extent // 2, extent // 2),) * 2)


def check_against_automatic(inputs, stride, padding, same_padding):
    """Value, gradients, and the gradients of the gradients' squares, against JAX's own."""

    def automatic(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (stride, stride), same_padding, dimension_numbers=layout)

    def own(x, kernel):
        return convolve(x, kernel, stride, padding)

    def all_orders(convolve):
        def first(x, kernel):
            return jax.grad(lambda x, kernel: (convolve(x, kernel) ** 3).sum(), (0, 1))(x, kernel)

        def second(x, kernel):
            return jax.grad(lambda *both: sum((g**2).sum() for g in first(*both)), (0, 1))(x, kernel)

        return jax.jit(lambda x, kernel: (convolve(x, kernel), *first(x, kernel), *second(x, kernel)))

    names = ("value", "dx", "dkernel", "ddx", "ddkernel")
    for name, ours, expected in zip(names, all_orders(own)(*inputs), all_orders(automatic)(*inputs), strict=True):
        assert_close(ours, expected, FLOAT64.layer, name)


@pytest.mark.parametrize("pair", ["half_huber"], indirect=True)
@pytest.mark.parametrize("train", [pytest.param(False, marks=pytest.mark.slow), True], ids=["evaluation", "training"])
def test_network_derivatives(pair, train):
    """In images and parameters together, so that mixed second derivatives are in it."""

    def logits(point):
        images, params = point
        variables = pair.variables | {"params": params}
        return ResNet(pair.architecture).apply(variables, images, train=train, mutable=["batch_stats"])[0]

    check_derivatives(logits, (pair.images, pair.variables["params"]), np.random.default_rng(0))
