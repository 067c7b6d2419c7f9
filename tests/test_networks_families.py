"""Families of networks beside the method's own: their names, sizes and files."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util
from networks import random_classifier
from parametrised import some

from advx_jax.errors import UserError
from advx_jax.networks.classifier import Provenance, expected_variables
from advx_jax.networks.families import (
    FAMILIES,
    CifarResNetArchitecture,
    DMPreActResNetArchitecture,
    DMWideResNetArchitecture,
    ImageNetResNetArchitecture,
    PreActResNetArchitecture,
    WideResNetArchitecture,
)
from advx_jax.networks.files import load_network, save_network
from advx_jax.networks.named import architecture_named
from advx_jax.networks.resnet import ResNetArchitecture

SMALL = WideResNetArchitecture(depth=10, width=1, n_classes=3, image_shape=(8, 12, 1))
# Parameters: those of WideResNets from the paper (arXiv 1605.07146, table 1 and 5), the others counted in PyTorch.
PARAMETERS = {
    "WideResNet-28-10": 36_479_194,
    "DMWideResNet-70-16-swish": 266_796_506,
    "PreActResNet-18": 11_171_146,
    "PreActResNet-50": 23_509_066,
    "DMPreActResNet-18-swish": 12_548_426,
    "ResNet-18-cifar": 11_173_962,
    "ResNet-34-cifar": 21_282_122,
    "ResNet-50-imagenet": 25_557_032,
    "ResNet-18-imagenet": 11_689_512,
    "WideResNet-50-2-imagenet": 68_883_240,
}


# The largest take longest to trace.
LARGE = {name for name in PARAMETERS if "70" in name or "imagenet" in name} - {"ResNet-50-imagenet"}


@some("name", PARAMETERS, by_default=PARAMETERS.keys() - LARGE)
def test_networks_are_as_large_as_they_should_be(name):
    architecture = architecture_named(name)
    assert architecture.name == name
    parameters = jax.tree.leaves(expected_variables(architecture)["params"])
    assert sum(leaf.size for leaf in parameters) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("wideresnet-16-8", WideResNetArchitecture(depth=16, width=8)),
        ("DMWideResNet-28-10-SiLU-pad2", DMWideResNetArchitecture(padding=2)),
        ("DMPreActResNet-34-relu", DMPreActResNetArchitecture(depth=34, activation="relu")),
        ("PreActResNet-18", PreActResNetArchitecture()),
        ("PreActResNet-34-v2", PreActResNetArchitecture(depth=34, shortcut_of="activated")),
        ("PreActResNet-101", PreActResNetArchitecture(depth=101, shortcut_of="activated")),
        ("ResNet-152-CIFAR", CifarResNetArchitecture(depth=152)),
        ("ResNet-34-imagenet", ImageNetResNetArchitecture(depth=34)),
        ("ResNet-20", ResNetArchitecture((3, 3, 3))),
    ],
)
def test_names_lead_to_architectures(name, architecture):
    assert architecture_named(name) == architecture
    assert architecture_named(architecture.name) == architecture


def test_what_a_name_does_not_tell_is_given_beside_it():
    architecture = architecture_named("PreActResNet-18", n_classes=4, image_shape=(28, 28, 1))
    assert (architecture.n_classes, architecture.image_shape) == (4, (28, 28, 1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("WideResNet", "got 'WideResNet'; did you mean WideResNet-28-10?"),
        ("WideResNet-28", "got 'WideResNet-28'"),
        ("WideResNet-27-10", "expected the depth of a WideResNet to be 6n \\+ 4, got 27"),
        ("WideResNet-9994-1", "from 10 to 1804 layers, got 9994"),
        ("WideResNet-28-9999", "from 1 to 1024 times the width, got 9999"),
        ("PreActResNet-19", "one of the depths 18, 34, 50, 101, 152, got 19"),
        ("DMPreActResNet-50-swish", "one of the depths 18, 34, got 50"),
        ("DMWideResNet-28-10", "expected an architecture such as"),
        ("DMWideResNet-28-10-gelu", "got 'DMWideResNet-28-10-gelu'; did you mean "),
        ("ResNet-18", "ResNet-18-cifar or ResNet-18-imagenet, got ResNet-18"),
        ("WideResNet-18-2-imagenet", "expected from 1 to 1 times the width, got 2"),
        ("x" * 10**6, "got 'xxx"),
        ("WideResNet-28-١٠", "got 'WideResNet-28-"),
        ("", "got ''"),
    ],
)
def test_no_such_architecture(name, message):
    with pytest.raises(UserError, match=message):
        architecture_named(name)


@pytest.mark.parametrize(
    "fields",
    [
        {"n_classes": 0},
        {"n_classes": 10**10},
        {"image_shape": (7, 32, 3)},
        {"image_shape": (32, 10**5, 3)},
        {"image_shape": (32, 32, 0)},
    ],
)
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_impossible_sizes_are_refused(family, fields):
    with pytest.raises(UserError, match="expected"):
        family(**fields)


def test_deepminds_wide_resnet_halves_even_sizes_only():
    with pytest.raises(UserError, match=r"divisible by 4 with its padding, got 30 and 2"):
        DMWideResNetArchitecture(padding=2, image_shape=(30, 30, 3))


def test_any_images_and_classes():
    classifier = random_classifier(architecture=SMALL)
    assert classifier(jnp.ones((2, 8, 12, 1))).shape == (2, 3)
    assert (classifier.n_classes, classifier.image_shape, classifier.class_names) == (3, (8, 12, 1), None)
    assert repr(classifier).startswith("Classifier(WideResNet-10-1, relu, 3 classes, images of 8×12×1, ")
    with pytest.raises(UserError, match=r"expected images of shape \(batch, height, width, 1\), got \(2, 8, 12, 3\)"):
        classifier(jnp.ones((2, 8, 12, 3)))


def test_the_methods_own_family_takes_other_images_too(tmp_path):
    grey = ResNetArchitecture((1, 1), (4, 6), 3, image_shape=(8, 8, 1))
    classifier = random_classifier(architecture=grey)
    assert classifier(jnp.ones((2, 8, 8, 1))).shape == (2, 3)
    save_network(tmp_path / "grey.safetensors", classifier, Provenance())
    assert load_network(tmp_path / "grey.safetensors")[0].architecture == grey
    assert "image_shape" in grey.identity
    assert "image_shape" not in ResNetArchitecture().identity


@pytest.mark.parametrize(
    "architecture",
    [
        SMALL,
        WideResNetArchitecture(depth=10, width=1, sub_block1=True, bias_last=False),
        DMWideResNetArchitecture(depth=10, width=1, padding=2, activation="relu", image_shape=(28, 28, 3)),
    ],
    ids=lambda architecture: architecture.name,
)
def test_files_hold_every_family(architecture, tmp_path):
    classifier = random_classifier(architecture=architecture)
    save_network(tmp_path / "it.safetensors", classifier, Provenance(name="it", batches_tracked=3))
    again, provenance = load_network(tmp_path / "it.safetensors")
    assert again.architecture == architecture
    assert provenance == Provenance(name="it", batches_tracked=3)
    assert again.fingerprint() == classifier.fingerprint()
    with safetensors.safe_open(tmp_path / "it.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["architecture"])["family"] == architecture.family


HUGE = 10**9


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"family": "Transformer"}, "expected one of the families WideResNet, .*, got 'Transformer'"),
        ({"family": None}, "got None"),
        ({"family": ["WideResNet"]}, "got a value of type list"),
        ({"family": "CifarResNet"}, "expected the fields depth, image_shape, n_classes, got 'width'"),
        ({"family": ...}, "expected the fields activation, "),
        ({"depth": HUGE}, "layers, got 1000000000"),
        ({"depth": 1804}, "its metadata tell of 900 blocks, but there are only"),
        ({"depth": 16}, "stage1_block2/bn1/mean is missing"),
        ({"depth": "10"}, "another kind of depth, got '10'"),
        ({"width": HUGE}, "times the width, got 1000000000"),
        ({"width": 1024}, r"head_bn/mean: expected float32\[65536\], got float32\[64\]"),
        ({"width": True}, "another kind of width, got True"),
        ({"n_classes": 2**20}, r"float32\[64, 1048576\]"),
        ({"image_shape": [4096, 4096, 64]}, r"stem/kernel: expected float32\[3, 3, 64, 16\]"),
        ({"image_shape": [8, 12, HUGE]}, "channels of images, got 1000000000"),
        ({"image_shape": [8, 12]}, "another kind of image_shape, got a value of type list"),
        ({"image_shape": 8}, "another kind of image_shape, got 8"),
        ({"sub_block1": 1}, "another kind of sub_block1, got 1"),
        ({"sub_block1": True}, "sub_block1_block1/bn1/bias is missing"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_hostile_metadata_are_refused_without_work(fields, message, tmp_path):
    path = tmp_path / "it.safetensors"
    save_network(path, random_classifier(architecture=SMALL), Provenance())
    with safetensors.safe_open(path, "numpy") as file:
        metadata = dict(file.metadata())
    changed = json.loads(metadata["architecture"]) | fields
    changed = {name: value for name, value in changed.items() if value is not ...}
    del metadata["sha256"]
    safetensors.numpy.save_file(
        safetensors.numpy.load_file(path), path, metadata | {"architecture": json.dumps(changed)}
    )
    with pytest.raises(UserError, match=message):
        load_network(path)


def test_idle_stages_have_numbers_that_change_nothing():
    architecture = WideResNetArchitecture(depth=10, width=1, sub_block1=True, image_shape=(8, 8, 3))
    classifier = random_classifier(architecture=architecture)
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 8, 8, 3)))
    flat = traverse_util.flatten_dict(classifier.variables, sep="/")
    used = {name: value for name, value in flat.items() if "sub_block1" not in name}
    assert len(used) < len(flat)
    plain = dataclasses.replace(
        classifier,
        variables=traverse_util.unflatten_dict(used, sep="/"),
        architecture=dataclasses.replace(architecture, sub_block1=False),
    )
    np.testing.assert_array_equal(classifier(images), plain(images))


def test_precision_is_the_highest_everywhere():
    classifier = random_classifier(architecture=SMALL)
    text = str(jax.make_jaxpr(jax.grad(lambda x: classifier(x).sum()))(jnp.ones((1, 8, 8, 1))))
    products = text.count("conv_general_dilated[") + text.count("dot_general[")
    assert products >= 12
    assert text.count("HIGHEST") >= products


def test_low_precision_reaches_the_convolutions_only():
    module = SMALL.module(dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 8, 12, 1), jnp.float32)
    logits, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), images)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    text = str(jax.make_jaxpr(lambda v, x: module.apply(v, x))(variables, images))
    assert text.count("bf16") > 10
