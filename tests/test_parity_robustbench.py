"""Networks of every family compute what RobustBench's and torchvision's own classes compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")


from robustbench_models import TorchvisionResNet, numpy_state, robustbench_file, with_random_numbers

from advx_jax.convert.families import recognise
from advx_jax.convert.keys import check_tensors, to_flax, to_torch
from advx_jax.convert.normalisation import Normalisation
from advx_jax.networks.classifier import Classifier

RELATIVE, RELATIVE_DOUBLE = 1e-4, 1e-10


def wide(**options):
    return robustbench_file("wide_resnet").WideResNet(**options)


def deepmind(kind, activation, **options):
    module = robustbench_file("dm_wide_resnet")
    functions = {"swish": torch.nn.SiLU, "relu": torch.nn.ReLU}
    return getattr(module, kind)(activation_fn=functions[activation], **options)


def small(kind, block, lengths, **options):
    module = robustbench_file("resnet")
    block_class = getattr(module, block)
    if block == "PreActBottleneck":
        # The network hands its blocks an option that this one does not take.
        block_class = type(block, (block_class,), {"__init__": _without_out_shortcut(block_class)})
    return getattr(module, kind)(block_class, list(lengths), **options)


def _without_out_shortcut(block_class):
    def init(self, before, planes, stride=1, out_shortcut=False):
        block_class.__init__(self, before, planes, stride)

    return init


MODELS = {
    "WideResNet-10-1": (lambda: wide(depth=10, widen_factor=1), 32),
    "WideResNet-16-2": (lambda: wide(depth=16, widen_factor=2, sub_block1=True, num_classes=7), 32),
    "WideResNet-28-10": (lambda: wide(depth=28, widen_factor=10, bias_last=False), 32),
    "DMWideResNet-10-1-swish": (lambda: deepmind("DMWideResNet", "swish", depth=10, width=1), 32),
    "DMWideResNet-28-10-swish": (lambda: deepmind("DMWideResNet", "swish", depth=28, width=10), 32),
    "DMWideResNet-16-2-relu-pad2": (
        lambda: deepmind(
            "DMWideResNet", "relu", depth=16, width=2, padding=2, num_input_channels=1, mean=(0.5,), std=(0.25,)
        ),
        28,
    ),
    "DMPreActResNet-18-swish": (lambda: deepmind("DMPreActResNet", "swish", depth=18, num_classes=100), 32),
    "DMPreActResNet-34-relu": (lambda: deepmind("DMPreActResNet", "relu", depth=34), 32),
    "PreActResNet-18": (lambda: small("PreActResNet", "PreActBlock", (2, 2, 2, 2)), 32),
    "PreActResNet-18-v2": (
        lambda: small("PreActResNet", "PreActBlockV2", (2, 2, 2, 2), num_classes=100, bn_before_fc=True),
        32,
    ),
    "PreActResNet-34-v2": (lambda: small("PreActResNet", "PreActBlock", (3, 4, 6, 3), out_shortcut=True), 32),
    "PreActResNet-50": (lambda: small("PreActResNet", "PreActBottleneck", (3, 4, 6, 3), bn_before_fc=True), 32),
    "ResNet-18-cifar": (lambda: small("ResNet", "BasicBlock", (2, 2, 2, 2)), 32),
    "ResNet-34-cifar": (lambda: small("ResNet", "BasicBlock", (3, 4, 6, 3), num_classes=100), 32),
    "ResNet-50-cifar": (lambda: small("ResNet", "Bottleneck", (3, 4, 6, 3)), 32),
    "ResNet-18-imagenet": (lambda: TorchvisionResNet((2, 2, 2, 2), False, 1000), 224),
    "ResNet-34-imagenet": (lambda: TorchvisionResNet((3, 4, 6, 3), False, 10), 224),
    "ResNet-50-imagenet": (lambda: TorchvisionResNet((3, 4, 6, 3), True, 1000), 224),
    "WideResNet-50-2-imagenet": (lambda: TorchvisionResNet((3, 4, 6, 3), True, 5, width=2), 64),
}
QUICK = ("WideResNet-10-1", "DMWideResNet-10-1-swish")


def converted(name):
    """The PyTorch network and ours of the same numbers."""
    build, side = MODELS[name]
    twin = with_random_numbers(build())
    tensors = numpy_state(twin)
    channels = next(iter(tensors.values())).shape[1]
    architecture = recognise(tensors, name, (side, side, channels))
    assert architecture.name == name
    check_tensors(tensors, architecture)
    normalisation = None
    if hasattr(twin, "mean"):
        normalisation = Normalisation.of_tensors(twin.mean.numpy(), twin.std.numpy())
    return twin, Classifier(to_flax(tensors, architecture, normalisation), architecture)


def random_images(shape, batch=2):
    return np.random.default_rng(1).uniform(size=(batch, *shape)).astype(np.float32)


def all_models(test):
    names = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
    return pytest.mark.parametrize("name", names)(test)


def relative_difference(found, expected):
    return np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected)


@all_models
def test_logits_and_input_gradients_are_pytorchs(name):
    """Both in double precision: in single precision the sign of one ReLU's input may change a whole gradient."""
    twin, classifier = converted(name)
    images, labels = random_images(classifier.image_shape), np.array([1, 3])
    tensor = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).double().requires_grad_()
    logits = twin.double()(tensor)
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
    expected = logits.detach().numpy()
    assert relative_difference(jax.jit(Classifier.__call__)(classifier, jnp.asarray(images)), expected) < RELATIVE

    def loss(images, classifier):
        logits = classifier(images)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean(), logits

    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), classifier)
        gradient, found = jax.jit(jax.grad(loss, has_aux=True))(jnp.asarray(images, jnp.float64), double)
    assert relative_difference(found, expected) < RELATIVE_DOUBLE
    assert relative_difference(gradient, tensor.grad.numpy().transpose(0, 2, 3, 1)) < RELATIVE_DOUBLE


@all_models
def test_what_is_written_loads_strictly_and_is_the_same(name):
    twin, classifier = converted(name)
    written = to_torch(classifier.variables, classifier.architecture, 7)
    expected = numpy_state(twin)
    assert list(written) == list(expected)
    for key, value in expected.items():
        assert written[key].dtype == value.dtype
        np.testing.assert_array_equal(written[key], value, key)
    fresh = MODELS[name][0]()
    fresh.load_state_dict({key: torch.from_numpy(value) for key, value in written.items()}, strict=True)


@pytest.mark.parametrize(
    "name",
    [
        "WideResNet-10-1",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("PreActResNet-18", "WideResNet-28-10")),
    ],
)
def test_training_mode_is_pytorchs(name):
    """The logits, and the running statistics that the pass leaves behind."""
    twin, classifier = converted(name)
    images = random_images(classifier.image_shape, 4)
    twin.train()
    with torch.no_grad():
        expected = twin(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    found, moved = jax.jit(Classifier.in_training_mode)(classifier, images, classifier.variables["batch_stats"])
    assert relative_difference(found, expected) < RELATIVE
    written = to_torch(classifier.variables | {"batch_stats": moved}, classifier.architecture, 8)
    for key, value in numpy_state(twin).items():
        np.testing.assert_allclose(written[key], value, rtol=1e-3, atol=1e-4, err_msg=key)
