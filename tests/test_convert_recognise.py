"""State dicts of the common families are recognised by names and shapes, renamed, and named back."""

import dataclasses

import numpy as np
import pytest
from networks import random_classifier

from advx_jax.convert.families import recognise
from advx_jax.convert.keys import check_tensors, tensor_keys, to_flax, to_torch
from advx_jax.convert.normalisation import Normalisation
from advx_jax.errors import UserError
from advx_jax.networks.families import (
    CifarResNetArchitecture,
    DMPreActResNetArchitecture,
    DMWideResNetArchitecture,
    ImageNetResNetArchitecture,
    PreActResNetArchitecture,
    WideResNetArchitecture,
)
from advx_jax.networks.files import check_variables
from advx_jax.networks.named import architecture_named

TOLD = [
    WideResNetArchitecture(),
    WideResNetArchitecture(depth=70, width=16, n_classes=100),
    WideResNetArchitecture(depth=34, width=20, sub_block1=True),
    WideResNetArchitecture(depth=10, width=1, bias_last=False, n_classes=2, image_shape=(32, 32, 1)),
    PreActResNetArchitecture(depth=50, shortcut_of="activated"),
    PreActResNetArchitecture(depth=50, shortcut_of="activated", bn_before_fc=True),
    CifarResNetArchitecture(),
    CifarResNetArchitecture(depth=34, n_classes=100),
    CifarResNetArchitecture(depth=50),
    ImageNetResNetArchitecture(depth=18),
    ImageNetResNetArchitecture(depth=34),
    ImageNetResNetArchitecture(depth=50),
    ImageNetResNetArchitecture(depth=50, width=2, n_classes=37),
]
ASKED_FOR = [
    DMWideResNetArchitecture(depth=28, width=10),
    DMWideResNetArchitecture(depth=16, width=2, activation="relu", n_classes=100),
    DMPreActResNetArchitecture(depth=34),
    DMPreActResNetArchitecture(activation="relu", padding=4),
    PreActResNetArchitecture(),
    PreActResNetArchitecture(shortcut_of="activated", bn_before_fc=True, n_classes=100),
]


def described(architecture):
    family = dataclasses.asdict(architecture)
    return f"{architecture.name}-{'-'.join(str(int(v)) for v in family.values() if isinstance(v, bool | int))}"


def empty_tensors(architecture):
    """Tensors of the right shapes that take no memory."""
    return {key.torch: np.broadcast_to(np.zeros((), key.dtype), key.shape) for key in tensor_keys(architecture)}


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(one, marks=pytest.mark.slow if "70-16" in one.name else (), id=described(one)) for one in TOLD],
)
def test_names_and_shapes_tell(architecture):
    tensors = empty_tensors(architecture)
    assert recognise(tensors) == architecture
    assert recognise(tensors, architecture.name) == architecture
    check_tensors(tensors, architecture)


@pytest.mark.parametrize("architecture", ASKED_FOR, ids=described)
def test_what_they_do_not_tell_is_asked_for(architecture):
    tensors = empty_tensors(architecture)
    with pytest.raises(UserError, match="fit several architectures: give --architecture=") as caught:
        recognise(tensors)
    flags = [part.partition("=")[2] for part in str(caught.value).split() if part.startswith("--architecture=")]
    assert architecture.name in flags if not getattr(architecture, "padding", 0) else len(flags) == 2
    assert recognise(tensors, architecture.name) == architecture
    for name in flags:
        assert recognise(tensors, name).name == name


def test_images_are_as_asked():
    tensors = empty_tensors(CifarResNetArchitecture())
    assert recognise(tensors, None, (64, 48, 3)).image_shape == (64, 48, 3)
    with pytest.raises(UserError, match="expected images of 3 channels, got 1"):
        recognise(tensors, None, (28, 28, 1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("WideResNet-34-10", "expected the tensors of WideResNet-34-10, got those of WideResNet-28-10"),
        ("WideResNet-28-2", "got those of WideResNet-28-10"),
        ("DMWideResNet-28-10-relu", "expected the tensors of DMWideResNet-28-10-relu, got those of WideResNet-28-10"),
        ("ResNet-20", "expected the tensors of ResNet-20, got those of WideResNet-28-10"),
        ("gpt", "expected an architecture such as"),
    ],
)
def test_another_architecture_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        recognise(empty_tensors(WideResNetArchitecture()), name)


def test_other_depths_of_pre_activation_networks_are_refused():
    deep, flat = PreActResNetArchitecture(depth=50, shortcut_of="activated"), PreActResNetArchitecture()
    with pytest.raises(UserError, match=r"expected the tensors of PreActResNet-18, got those of PreActResNet-50"):
        recognise(empty_tensors(deep), "PreActResNet-18")
    with pytest.raises(UserError, match=r"of PreActResNet-50, got those of PreActResNet-18 or PreActResNet-18-v2"):
        recognise(empty_tensors(flat), "PreActResNet-50")


def without(*names):
    return lambda tensors: {name: value for name, value in tensors.items() if name not in names}


def with_shape(name, *shape):
    return lambda tensors: tensors | {name: np.broadcast_to(np.float32(0), shape)}


def renamed(before, after):
    return lambda tensors: {name.replace(before, after): value for name, value in tensors.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("conv1.weight"), "conv1.weight is missing"),
        (without("fc.weight"), "fc.weight is missing"),
        (without("block1.layer.0.conv1.weight"), "block1.layer.0.conv1.weight is missing"),
        (with_shape("fc.weight", 10), r"fc.weight: expected a tensor of 2 dimensions, got \[10\]"),
        (with_shape("fc.weight", 0, 64), r"fc.weight: expected a tensor of 2 dimensions"),
        (with_shape("fc.weight", 2**21, 64), "from 1 to 1048576 classes, got 2097152"),
        (with_shape("conv1.weight", 16, 65, 3, 3), "channels of images, got 65"),
        (with_shape("block1.layer.0.conv1.weight", 17, 16, 3, 3), "expected a multiple of 16 channels, got 17"),
        (with_shape("block1.layer.0.conv1.weight", 16 * 1025, 16, 3, 3), "times the width, got 1025"),
        (renamed("block3.", "block4."), "three stages, got 1; 1"),
        (renamed("block3.layer.0", "block3.layer.9"), "block3.layer.0.bn1.weight is missing"),
        (with_shape("block2.layer.1.bn1.weight", 5), "three stages, got 1; 2; 1"),
        (renamed("block", "\x1b"), r"expected the tensors of one of the families .*got 'conv1.weight'; '\\x1b1"),
        (lambda _: {}, "got none"),
        (lambda _: {"block1.layer.9999999999999999999.x": np.zeros(1)}, "three stages, got 1"),
    ],
)
def test_what_fits_no_wide_resnet_is_named(change, message):
    tensors = change(empty_tensors(WideResNetArchitecture(depth=10, width=1)))
    with pytest.raises(UserError, match=message):
        check_tensors(tensors, recognise(tensors))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("layer2.0.bn1.running_var"), "layer2.0.bn1.running_var is missing"),
        (with_shape("layer2.0.bn1.more", 1), "'layer2.0.bn1.more' is surplus"),
        (with_shape("layer1.0.bn1.weight", 65), r"layer1.0.bn1.weight: expected float32\[64\], got float32\[65\]"),
        (renamed("layer4.1", "layer4.2"), "layer4.1.conv1.weight is missing"),
        (with_shape("layer4.2.conv1.weight", 1), r"basic blocks, got \(2, 2, 2, 3\)"),
        (with_shape("layer1.0.conv3.weight", 1), r"bottlenecks, got \(2, 2, 2, 2\)"),
        (renamed("linear", "head"), "linear.weight is missing"),
        (renamed("layer4", "layer5"), r"got \(2, 2, 2\)"),
    ],
)
def test_what_fits_no_resnet_is_named(change, message):
    tensors = change(empty_tensors(CifarResNetArchitecture()))
    with pytest.raises(UserError, match=message):
        check_tensors(tensors, recognise(tensors))


@pytest.mark.parametrize(
    "architecture",
    [
        WideResNetArchitecture(depth=10, width=1, sub_block1=True, n_classes=3),
        DMWideResNetArchitecture(depth=10, width=1, image_shape=(8, 8, 1)),
    ],
    ids=lambda architecture: architecture.name,
)
def test_to_torch_and_to_flax_undo_each_other(architecture):
    classifier = random_classifier(architecture=architecture)
    tensors = to_torch(classifier.variables, architecture, 7)
    check_tensors(tensors, architecture)
    constants = classifier.variables["constants"]
    normalisation = Normalisation.of_tensors(np.asarray(constants["mean"]), np.asarray(constants["std"]))
    again = to_flax(tensors, architecture, normalisation)
    check_variables(again, architecture, "it")
    assert dataclasses.replace(classifier, variables=again).fingerprint() == classifier.fingerprint()


def test_without_normalisation_images_go_in_as_they_are():
    architecture = architecture_named("DMWideResNet-10-1-swish")
    tensors = {name: np.array(value) for name, value in empty_tensors(architecture).items()}
    constants = to_flax(tensors, architecture)["constants"]
    np.testing.assert_array_equal(constants["mean"], np.zeros(3))
    np.testing.assert_array_equal(constants["std"], np.ones(3))
