"""What `--to_pt` writes of the method's own networks beside the parts of the published files, and its way back."""

import dataclasses
import json

import numpy as np
import pytest
from networks import random_classifier
from pt_files import PLAIN, ROBUST, as_zip, flat, make_content, make_network

from advx_jax.convert import read_pt, write_pt
from advx_jax.convert.containers import read_container
from advx_jax.convert.normalisation import Normalisation
from advx_jax.errors import UserError
from advx_jax.networks.classifier import Classifier, Provenance, Wrapper
from advx_jax.networks.files import load_network, save_network
from advx_jax.networks.named import architecture_named
from advx_jax.networks.psi import psi_of
from advx_jax.networks.registry import resolve_network
from advx_jax.networks.resnet import ResNetArchitecture

PARTS = {"model_params", "training_options"}
OTHER = {"stage_lengths": [2, 2], "stage_widths": [4, 6], "n_classes": 3, "activation": "half_huber"}
PUBLISHED = Provenance("tiny", (("l2_min", True), ("robust_additions", True)), 12.5, None, 7, psi=psi_of(12.5))


def content_of(path):
    return read_container(path.read_bytes()).value


def back(path, classifier, provenance):
    """The network as it comes back, and what was written for it."""
    write_pt(path, classifier, provenance)
    again, read = read_pt(path)
    assert again.architecture == classifier.architecture
    assert again.class_names == classifier.class_names
    assert again.fingerprint() == classifier.fingerprint()
    assert dataclasses.replace(read, source_sha256=None) == dataclasses.replace(
        provenance, name=path.stem, options=read.options
    )
    assert set(provenance.options) <= set(read.options)
    return content_of(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_shape": (64, 64, 3)},
        {"image_shape": (28, 28, 1)},
        {"image_shape": (48, 64, 4)},
        {"activation": "half_huber", "bowl_width": 0.3},
        {"bowl_width": 0.25},
        {"image_shape": (16, 16, 1), "activation": "half_huber", "bowl_width": 1 / 3},
    ],
)
@pytest.mark.parametrize("names", [None, tuple("abcdefghij")])
def test_networks_of_any_shape_come_back_as_they_were(changes, names, tmp_path):
    architecture = ResNetArchitecture((1, 1), (4, 8), 10, **changes)
    classifier = random_classifier(3, architecture).replace(class_names=names)
    content = back(tmp_path / "ours.pt", classifier, Provenance(batches_tracked=7))
    marks = {"architecture"} if names is None else {"architecture", "class_names"}
    assert content.keys() == PARTS | marks
    assert content["training_options"]["arch"][0] == architecture.image_shape[0]


@pytest.mark.parametrize("architecture", [ROBUST, PLAIN])
def test_what_the_published_parts_tell_is_told_once(architecture, tmp_path):
    classifier, provenance = make_network(architecture)
    assert back(tmp_path / "plain.pt", classifier, provenance).keys() == PARTS


def test_names_of_classes_alone_stand_beside_them(tmp_path):
    classifier, provenance = make_network(PLAIN)
    content = back(tmp_path / "named.pt", classifier.replace(class_names=tuple("abcde")), provenance)
    assert content.keys() == PARTS | {"class_names"}


@pytest.mark.parametrize("psi", [psi_of(12.5), 12430.0])
def test_the_weight_stands_beside_them(psi, tmp_path):
    classifier, provenance = make_network()
    content = back(tmp_path / "quick.pt", classifier, dataclasses.replace(provenance, psi=psi))
    assert content.keys() == PARTS | {"psi"}


def test_published_files_tell_the_weight_by_its_integrator(published_pt, tmp_path):
    classifier, provenance, _ = resolve_network(str(published_pt("resnet44-robust")))
    assert provenance.psi == pytest.approx(psi_of(provenance.psi_integrator), rel=1e-4)
    write_pt(tmp_path / "again.pt", classifier, provenance)
    assert content_of(tmp_path / "again.pt").keys() == PARTS


def test_of_other_files_the_integrator_alone_tells_no_weight(tmp_path):
    # Earlier releases wrote such files of networks with other constants.
    (tmp_path / "tiny.pt").write_bytes(as_zip(make_content()))
    _, provenance = read_pt(tmp_path / "tiny.pt")
    assert (provenance.psi_integrator, provenance.psi) == (12.5, None)


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        ({"architecture": "[" * 100_000}, "expected the fields of an architecture beside model_params"),
        ({"architecture": None}, "expected the fields of an architecture beside model_params"),
        ({"architecture": json.dumps({"stage_lengths": [2]})}, "expected the fields of an architecture beside"),
        ({"architecture": json.dumps(OTHER)}, "expected the architecture that tensors and training_options tell"),
        ({"architecture": json.dumps({"image_shape": [64, 64, 3]})}, "expected arch to be [64, "),
        ({"class_names": ["a"]}, "expected the names of 3 classes"),
        ({"psi": -1.0}, "expected another kind of psi, got -1.0"),
        ({"psi": "large"}, "expected another kind of psi, got 'large'"),
        ({"more": 1}, "expected a dict of model_params and training_options, got 3 keys"),
    ],
)
def test_marks_that_are_none_are_refused(marks, said, tmp_path):
    (tmp_path / "odd.pt").write_bytes(as_zip(make_content() | marks))
    with pytest.raises(UserError) as caught:
        read_pt(tmp_path / "odd.pt")
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_too_few_names_of_classes_are_not_written(tmp_path):
    classifier, provenance = make_network(PLAIN)
    with pytest.raises(UserError, match="expected the names of 5 classes"):
        write_pt(tmp_path / "named.pt", classifier.replace(class_names=("a", "b")), provenance)


def family_network() -> Classifier:
    return random_classifier(5, architecture_named("WideResNet-10-1", n_classes=10, image_shape=(32, 32, 3)))


def test_how_a_network_of_a_family_was_trained_comes_back(tmp_path):
    provenance = dataclasses.replace(PUBLISHED, psi=12430.0)
    content = back(tmp_path / "wide.pt", family_network(), provenance)
    assert content["options"] == {"l2_min": True, "robust_additions": True}
    assert (content["psi_integrator"], content["psi"]) == (12.5, 12430.0)
    assert not {"options", "psi_integrator", "psi"} & back(tmp_path / "bare.pt", family_network(), Provenance()).keys()


@pytest.mark.parametrize("field", [{"options": {"a": 1}}, {"psi_integrator": "x"}, {"psi": 0}])
def test_training_of_a_family_that_is_none_is_refused(field, tmp_path):
    write_pt(tmp_path / "wide.pt", family_network(), PUBLISHED)
    (tmp_path / "odd.pt").write_bytes(as_zip(with_arrays(tmp_path / "wide.pt") | field))
    with pytest.raises(UserError, match=r"expected (options that are true or false|another kind of psi)"):
        read_pt(tmp_path / "odd.pt")


def with_arrays(path):
    """What a file holds, with arrays in the place of its tensors."""
    contents = read_container(path.read_bytes())
    value = dict(contents.value)
    value["state_dict"] = {
        name: spec.read(contents.storages[spec.storage.key]) for name, spec in value["state_dict"].items()
    }
    return value


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1), (1, 1, 1, 1), (3,), (1, 3, 1, 1)])
def test_the_normalisation_keeps_its_shape(shape, tmp_path):
    write_pt(tmp_path / "wide.pt", family_network(), PUBLISHED)
    state = with_arrays(tmp_path / "wide.pt")["state_dict"]
    outside = {"mu": np.full(shape, 0.5, np.float32), "sigma": np.full(shape, 0.25, np.float32)}
    content = {"net": outside | {f"model.{name}": tensor for name, tensor in state.items()}}
    (tmp_path / "wrapped.pt").write_bytes(as_zip(content))
    save_network(tmp_path / "between.safetensors", *read_pt(tmp_path / "wrapped.pt"))
    classifier, provenance = load_network(tmp_path / "between.safetensors")
    assert provenance.wrapper == Wrapper("mu", "sigma", "model.", len(shape), np.prod(shape) == 1)
    np.testing.assert_array_equal(flat(classifier.variables)["constants/std"], np.full(3, 0.25, np.float32))
    write_pt(tmp_path / "back.pt", classifier, provenance)
    again = with_arrays(tmp_path / "back.pt")["state_dict"]
    for name in ("mu", "sigma"):
        assert again[name].shape == shape
        np.testing.assert_array_equal(again[name], outside[name])


@pytest.mark.parametrize("text", ["0/255", "0.5,0.5,0.5/63,62.1,66.7"])
def test_standard_deviations_of_images_in_255_are_refused(text):
    with pytest.raises(UserError, match=r"expected standard deviations of images in \[0,1\], .*: divide all by 255"):
        Normalisation.parse(text)
    assert Normalisation.parse("0/1").std == (1.0,)
