"""Architectures, classifiers and their files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from networks import TINY, random_classifier

from advx_jax.data.image_set import CIFAR10_CLASSES
from advx_jax.errors import UserError
from advx_jax.networks.batch_norm import BatchNorm
from advx_jax.networks.class_names import class_names_of
from advx_jax.networks.classifier import Classifier, Provenance
from advx_jax.networks.files import load_network, save_network
from advx_jax.networks.resnet import CIFAR10_MEAN, CIFAR10_STD, ResNet, ResNetArchitecture

PROVENANCE = Provenance(
    name="tiny",
    options=(("adversarial_training", True), ("l2_min", False)),
    psi_integrator=208.5,
    source_sha256="ab" * 32,
    batches_tracked=98,
)


@pytest.fixture
def saved(tmp_path):
    classifier = random_classifier()
    save_network(tmp_path / "tiny.safetensors", classifier, PROVENANCE)
    return tmp_path / "tiny.safetensors", classifier


def test_network_comes_back_bit_for_bit(saved):
    path, classifier = saved
    found, provenance = load_network(path)
    assert provenance == PROVENANCE
    assert found.architecture == classifier.architecture
    assert found.fingerprint() == classifier.fingerprint()
    jax.tree.map(np.testing.assert_array_equal, found.variables, classifier.variables)


def test_fingerprint_tells_networks_apart():
    one, other = random_classifier(0), random_classifier(1)
    assert one.fingerprint() == random_classifier(0).fingerprint() != other.fingerprint()
    relu = Classifier(one.variables, ResNetArchitecture((1, 1), (4, 6), activation="relu"))
    assert relu.fingerprint() != one.fingerprint()


def test_truncated_or_foreign_files_give_one_line(saved, tmp_path):
    path, _ = saved
    content = path.read_bytes()
    wrong = tmp_path / "wrong.safetensors"
    for damaged in (b"", content[:7], content[:100], content[:-1], content + b"0", b"\xff" * 64):
        wrong.write_bytes(damaged)
        with pytest.raises(UserError) as caught:
            load_network(wrong)
        assert "wrong.safetensors" in str(caught.value)
    with pytest.raises(UserError, match=r"gone\.safetensors"):
        load_network(tmp_path / "gone.safetensors")
    safetensors.numpy.save_file({"x": np.zeros(3)}, wrong)
    with pytest.raises(UserError, match="expected a network file of format"):
        load_network(wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: t.pop("params/stem/kernel"), "params/stem/kernel is missing"),
        (lambda t, m: t.update(extra=np.zeros(2, "f4")), "extra is surplus"),
        (
            lambda t, m: t.update({"params/head/bias": np.zeros(9, "f4")}),
            r"params/head/bias: expected float32\[10\], got float32\[9\]",
        ),
        (
            lambda t, m: t.update({"params/head/bias": np.zeros(10, "f8")}),
            r"params/head/bias: expected float32\[10\], got float64\[10\]",
        ),
        (lambda t, m: m.update(architecture="{"), "metadata"),
        (lambda t, m: m.update(architecture=json.dumps({"depth": 3})), "metadata"),
        (lambda t, m: m.update(provenance="[]"), "metadata"),
        (lambda t, m: m.pop("provenance"), "metadata"),
    ],
)
def test_what_does_not_fit_is_named(saved, change, message):
    path, _ = saved
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = dict(file.metadata())
    tensors = safetensors.numpy.load_file(path)
    change(tensors, metadata)
    safetensors.numpy.save_file(tensors, path, metadata)
    with pytest.raises(UserError, match=message):
        load_network(path)


@pytest.mark.parametrize(
    "fields",
    [
        {"stage_lengths": (7, 7)},
        {"stage_lengths": (), "stage_widths": ()},
        {"n_classes": 0},
        {"activation": "gelu"},
        {"bowl_width": 0.0},
    ],
)
def test_impossible_architectures_are_refused(fields):
    with pytest.raises((UserError, TypeError)):
        ResNetArchitecture(**fields)


def test_images_of_the_wrong_shape_are_refused():
    classifier = random_classifier()
    with pytest.raises((UserError, TypeError), match=r"\(32, 32, 3\)|32,32,3"):
        classifier(jnp.zeros((32, 32, 3)))


def test_any_stages_can_be_built():
    architecture = ResNetArchitecture((1, 2, 1, 1), (3, 5, 5, 8), n_classes=7)
    images = jnp.ones((2, 32, 32, 3))
    variables = jax.jit(ResNet(architecture).init)(jax.random.key(0), images)
    assert jax.eval_shape(Classifier(variables, architecture), images).shape == (2, 7)


def test_initialisation_is_the_papers():
    """U(-b, b) with b = sqrt(6/fan_in); head bias 0; the second convolution of every block all zeros."""
    module, images = ResNet(ResNetArchitecture((1, 1), (16, 32))), jnp.ones((1, 32, 32, 3))
    params = jax.jit(module.init)(jax.random.key(0), images)["params"]
    bound = np.sqrt(6 / (9 * 16))
    kernel = np.asarray(params["stage1_block1"]["conv1"]["kernel"])
    assert bound * 0.98 < np.abs(kernel).max() <= bound
    assert kernel.var() == pytest.approx(bound**2 / 3, rel=0.1)
    assert (params["stage1_block1"]["conv2"]["kernel"] == 0).all()
    assert (params["head"]["bias"] == 0).all()
    head = np.sqrt(6 / 32)
    assert head * 0.9 < np.abs(params["head"]["kernel"]).max() <= head


def test_batch_norm_over_several_devices_equals_one(tmp_path):
    """Half of the batch on each of two mapped places: the same output and running statistics."""
    x = jax.random.normal(jax.random.key(0), (8, 4, 4, 3)) * 3 + 1
    alone, shared = BatchNorm(), BatchNorm(axis_name="devices")
    variables = alone.init(jax.random.key(1), x, train=False)
    expected, moved = alone.apply(variables, x, train=True, mutable=["batch_stats"])
    apply = jax.vmap(lambda x: shared.apply(variables, x, train=True, mutable=["batch_stats"]), axis_name="devices")
    found, moved_shared = apply(x.reshape(2, 4, 4, 4, 3))
    np.testing.assert_allclose(found.reshape(x.shape), expected, atol=1e-5)
    for name in ("mean", "var"):
        for place in range(2):
            np.testing.assert_allclose(moved_shared["batch_stats"][name][place], moved["batch_stats"][name], rtol=1e-5)


def test_precision_is_the_highest_everywhere():
    """float32 means float32 on GPUs and TPUs too: no convolution or product is left at the default."""
    classifier = random_classifier(architecture=TINY)
    images = jnp.ones((1, 32, 32, 3))
    gradient = jax.grad(lambda x: classifier(x).sum())
    text = str(jax.make_jaxpr(gradient)(images))
    products = text.count("conv_general_dilated[") + text.count("dot_general[")
    assert products >= 12
    assert text.count("HIGHEST") >= products


def test_names_of_classes_travel_with_the_file(tmp_path):
    path, named = tmp_path / "named.safetensors", random_classifier().replace(class_names=tuple("abcdefghij"))
    save_network(path, named, Provenance(name="named"))
    loaded, provenance = load_network(path)
    assert loaded.class_names == named.class_names
    assert provenance == Provenance(name="named")
    assert loaded.fingerprint() == random_classifier().fingerprint()
    # The published networks do not say it, but by what they normalise with.
    assert class_names_of(random_classifier()) is None
    constants = {"mean": np.float32(CIFAR10_MEAN), "std": np.float32(CIFAR10_STD)}
    published = Classifier({**random_classifier().variables, "constants": constants}, TINY)
    assert class_names_of(published) == CIFAR10_CLASSES
    with pytest.raises(UserError, match="expected the names of 10 classes"):
        save_network(path, named.replace(class_names=("a", "b")), Provenance())
