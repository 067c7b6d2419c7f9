"""Files that PyTorch itself writes and reads, against our reader and writer."""

import dataclasses
import sys
from collections import OrderedDict

import numpy as np
import pytest
from pt_files import BATCHES_TRACKED, PLAIN, ROBUST, flat, make_content, make_network, make_tensors

from advx_jax.convert import read_pt, write_pt
from advx_jax.errors import UserError
from advx_jax.networks.files import load_network, save_network

torch = pytest.importorskip("torch")

PUBLISHED = {
    "resnet44-standard": (263, "cdf4b3ba2bb7495f957c8fe01ee3ac4e37ebb24532344ccf4413b19645fa7d21", None),
    "resnet44-adv-train": (263, "31f9b73ff60392c917fb61b591c1a75e0ea53c66859b3ced41eefce3b2512852", None),
    "resnet44-all": (306, "ff8609712e0cfe96f75b7bac4483d2103b18b86d61c70d51b959bc680b52a55f", 208.51202297038955),
    "resnet44-robust": (306, "432592630184de6acb35765a2949f46cca8e0ed3f29b7e337e98c8671072ff43", 251.69741587156975),
}


def preprocess_stub():
    """Stands for the function that the published files name; never called."""


def torch_load(path):
    """Load a published file in PyTorch's own safe way."""
    with torch.serialization.safe_globals([(preprocess_stub, "__main__.cifar10_preprocess")]):
        return torch.load(path, map_location="cpu", weights_only=True)


def assert_same_tensors(found, expected):
    assert list(found) == list(expected)
    for name in expected:
        assert found[name].dtype == expected[name].dtype, name
        assert found[name].shape == expected[name].shape, name
        assert found[name].numpy().tobytes() == expected[name].numpy().tobytes(), name


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_go_through_flax_and_back_bit_for_bit(name, published_pt, tmp_path):
    n_tensors, sha256, psi_integrator = PUBLISHED[name]
    original = torch_load(published_pt(name))
    assert len(original["model_params"]) == n_tensors

    classifier, provenance = read_pt(published_pt(name))
    assert provenance.name == name
    assert provenance.source_sha256 == sha256
    assert provenance.psi_integrator == psi_integrator
    assert (classifier.architecture.activation == "half_huber") == (n_tensors == 306)
    assert classifier.architecture.stage_lengths == (7, 7, 7)
    assert classifier.architecture.stage_widths == (16, 32, 64)

    save_network(tmp_path / "converted.safetensors", classifier, provenance)
    classifier, provenance = load_network(tmp_path / "converted.safetensors")
    write_pt(tmp_path / "back.pt", classifier, provenance)
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert_same_tensors(back["model_params"], original["model_params"])
    original["training_options"]["arch"][1] = None
    assert back["training_options"] == original["training_options"]


def test_published_values_lie_where_the_layouts_say(published_pt):
    original = torch_load(published_pt("resnet44-robust"))["model_params"]
    variables = flat(read_pt(published_pt("resnet44-robust"))[0].variables)
    kernel = variables["params/stage3_block4/conv2/kernel"]
    np.testing.assert_array_equal(kernel, original["pipe.3.3.main.3.weight"].permute(2, 3, 1, 0).numpy())
    np.testing.assert_array_equal(variables["params/head/kernel"], original["pipe.7.weight"][:, :, 0, 0].T.numpy())
    np.testing.assert_array_equal(variables["batch_stats/head_bn/mean"], original["pipe.4.running_mean"].numpy())
    np.testing.assert_array_equal(variables["constants/mean"], np.array([0.4914, 0.4822, 0.4465], np.float32))


@pytest.mark.parametrize("architecture", [ROBUST, PLAIN])
def test_what_we_write_pytorch_loads_and_we_read(architecture, tmp_path):
    classifier, provenance = make_network(architecture)
    write_pt(tmp_path / "tiny.pt", classifier, provenance)

    loaded = torch.load(tmp_path / "tiny.pt", weights_only=True)
    assert isinstance(loaded["model_params"], OrderedDict)
    expected = {name: torch.from_numpy(value) for name, value in make_tensors(architecture).items()}
    assert_same_tensors(loaded["model_params"], expected)
    assert loaded["training_options"]["l2_min"] is True
    assert not any(tensor.requires_grad for tensor in loaded["model_params"].values())

    again, read_provenance = read_pt(tmp_path / "tiny.pt")
    assert again.architecture == architecture
    assert read_provenance.options == provenance.options
    assert read_provenance.psi_integrator == provenance.psi_integrator
    assert read_provenance.batches_tracked == BATCHES_TRACKED
    for path, value in flat(classifier.variables).items():
        assert flat(again.variables)[path].tobytes() == value.tobytes(), path


def test_equal_networks_make_equal_files(tmp_path):
    for name in ("a.pt", "b.pt"):
        write_pt(tmp_path / name, *make_network())
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_options_that_contradict_the_network_are_not_written(tmp_path):
    classifier, provenance = make_network(PLAIN)
    _, robust_provenance = make_network(ROBUST)
    with pytest.raises(UserError, match="expected robust_additions=False for the activation relu, got True"):
        write_pt(tmp_path / "tiny.pt", classifier, robust_provenance)
    assert list(tmp_path.iterdir()) == []
    assert provenance.name == "tiny"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"psi_integrator": float("nan")}, "expected a number as robust_integration, got nan"),
        ({"batches_tracked": 2**63}, "expected a count of batches"),
        ({"batches_tracked": -1}, "expected a count of batches"),
    ],
)
def test_a_provenance_that_could_not_be_read_again_is_not_written(changes, said, tmp_path):
    classifier, provenance = make_network()
    with pytest.raises(UserError, match=said):
        write_pt(tmp_path / "tiny.pt", classifier, dataclasses.replace(provenance, **changes))
    assert list(tmp_path.iterdir()) == []


def as_torch(tensors):
    return OrderedDict((name, torch.from_numpy(value.copy())) for name, value in tensors.items())


def with_metadata(tensors):
    """Hang module versions on the dict, as `Module.state_dict()` does."""
    state = as_torch(tensors)
    state._metadata = OrderedDict([("", {"version": 1}), ("pipe.3", {"version": 2})])
    return state


def as_parameters(tensors):
    """Take parameters and not plain tensors, as `Module.state_dict(keep_vars=True)` gives them."""
    state = as_torch(tensors)
    return OrderedDict(
        (name, torch.nn.Parameter(tensor) if tensor.is_floating_point() else tensor) for name, tensor in state.items()
    )


def channels_last(tensors):
    """Keep convolutions in PyTorch's other memory order, in which strides are not falling."""
    state = as_torch(tensors)
    return OrderedDict(
        (name, tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor)
        for name, tensor in state.items()
    )


def views_of_one_storage(tensors):
    """Let all float tensors be slices of one flat one, as optimisers with flat buffers leave them."""
    state = as_torch(tensors)
    floats = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    whole = torch.cat([tensor.reshape(-1) for tensor in floats.values()])
    position = 0
    for name, tensor in floats.items():
        state[name] = whole[position : position + tensor.numel()].view(tensor.shape)
        position += tensor.numel()
    return state


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("arranged", [as_torch, with_metadata, as_parameters, channels_last, views_of_one_storage])
def test_what_pytorch_saves_we_read(arranged, zipped, tmp_path, monkeypatch):
    def cifar10_preprocess():
        raise AssertionError("must not be called")

    cifar10_preprocess.__module__ = "__main__"
    cifar10_preprocess.__qualname__ = "cifar10_preprocess"
    monkeypatch.setattr(sys.modules["__main__"], "cifar10_preprocess", cifar10_preprocess, raising=False)
    tensors = make_tensors()
    content = make_content(arranged(tensors), arch=[32, cifar10_preprocess, [1, 2], [4, 6], 3])
    torch.save(content, tmp_path / "saved.pt", _use_new_zipfile_serialization=zipped)
    assert (tmp_path / "saved.pt").read_bytes().startswith(b"PK") == zipped

    classifier, provenance = read_pt(tmp_path / "saved.pt")
    assert classifier.architecture == ROBUST
    assert provenance.batches_tracked == BATCHES_TRACKED
    expected = flat(make_network()[0].variables)
    found = flat(classifier.variables)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        assert found[path].tobytes() == value.tobytes(), path


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", ["double", "half", "bfloat16"])
def test_other_precisions_are_read_as_float32(kind, zipped, tmp_path):
    state = as_torch(make_tensors())
    state["pipe.0.weight"] = getattr(state["pipe.0.weight"], kind)()
    torch.save(make_content(state), tmp_path / "saved.pt", _use_new_zipfile_serialization=zipped)
    found = flat(read_pt(tmp_path / "saved.pt")[0].variables)["params/stem/kernel"]
    np.testing.assert_array_equal(found, state["pipe.0.weight"].float().permute(2, 3, 1, 0).numpy())


@pytest.mark.parametrize("kind", ["int", "bool", "cfloat"])
def test_other_numbers_are_refused_by_name(kind, tmp_path):
    state = as_torch(make_tensors())
    state["pipe.0.weight"] = getattr(state["pipe.0.weight"], kind)()
    torch.save(make_content(state), tmp_path / "saved.pt")
    with pytest.raises(UserError, match=r"pipe.0.weight: expected float32\[4, 3, 3, 3\], got (int32|bool|complex64)\["):
        read_pt(tmp_path / "saved.pt")
