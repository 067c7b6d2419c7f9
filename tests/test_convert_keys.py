"""PyTorch's tensor names against the Flax variables, and errors that name what does not fit."""

import numpy as np
import pytest
from flax import traverse_util
from pt_files import PLAIN, ROBUST, as_zip, flat, make_content, make_network, make_tensors

from advx_jax.convert import read_pt
from advx_jax.convert.keys import tensor_keys, to_flax, to_torch
from advx_jax.errors import UserError
from advx_jax.networks.classifier import expected_variables
from advx_jax.networks.resnet import ResNetArchitecture

RESNET44 = ResNetArchitecture(activation="half_huber")


def refusal(tmp_path, content) -> str:
    path = tmp_path / "tiny.pt"
    path.write_bytes(as_zip(content))
    with pytest.raises(UserError) as caught:
        read_pt(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"cannot read the network {path}: ")
    return message.removeprefix(f"cannot read the network {path}: ")


@pytest.mark.parametrize("architecture", [ROBUST, PLAIN, ResNetArchitecture((1,), (3,), 2), RESNET44])
def test_the_map_covers_every_flax_variable_once(architecture):
    expected = flat_shapes(architecture)
    # The two constants are one tensor in PyTorch.
    mapped = [key.flax for key in tensor_keys(architecture) if key.flax] + ["constants/mean", "constants/std"]
    assert sorted(mapped) == sorted(expected)

    tensors = {key.torch: np.zeros(key.shape, key.dtype) for key in tensor_keys(architecture)}
    assert {path: value.shape for path, value in flat(to_flax(tensors, architecture)).items()} == expected


def flat_shapes(architecture):
    variables = traverse_util.flatten_dict(expected_variables(architecture), sep="/")
    return {path: value.shape for path, value in variables.items()}


def test_resnet44_has_the_published_names():
    names = [key.torch for key in tensor_keys(RESNET44)]
    assert len(names) == len(set(names)) == 306
    assert len(tensor_keys(ResNetArchitecture())) == 263
    # A few of each kind, as section 2 of the specification spells them.
    for name in (
        "input_offset", "pipe.0.weight", "pipe.1.0.pre.0.running_var", "pipe.3.6.pre.1.d", "pipe.2.0.shortcut.weight",
        "pipe.3.0.main.3.weight", "pipe.4.num_batches_tracked", "pipe.5.d", "pipe.7.weight", "pipe.7.bias",
    ):  # fmt: skip
        assert name in names
    assert [name for name in names if "shortcut" in name] == ["pipe.2.0.shortcut.weight", "pipe.3.0.shortcut.weight"]


def test_layouts_by_hand():
    tensors = make_tensors()
    variables = flat(to_flax(tensors, ROBUST))
    torch_kernel, kernel = tensors["pipe.2.0.shortcut.weight"], variables["params/stage2_block1/shortcut/kernel"]
    assert torch_kernel.shape == (6, 4, 3, 3)
    assert kernel.shape == (3, 3, 4, 6)
    assert kernel[2, 0, 3, 5] == torch_kernel[5, 3, 2, 0]
    assert variables["params/head/kernel"][5, 2] == tensors["pipe.6.weight"][2, 5, 0, 0]
    np.testing.assert_array_equal(variables["constants/std"], tensors["input_offset"][1])
    np.testing.assert_array_equal(variables["batch_stats/head_bn/var"], tensors["pipe.3.running_var"])
    np.testing.assert_array_equal(variables["params/stage2_block2/bn1/scale"], tensors["pipe.2.1.pre.0.weight"])


@pytest.mark.parametrize("architecture", [ROBUST, PLAIN])
def test_to_flax_and_to_torch_undo_each_other(architecture):
    classifier, _ = make_network(architecture)
    tensors = to_torch(classifier.variables, architecture, 7)
    again = flat(to_flax(tensors, architecture))
    for path, value in flat(classifier.variables).items():
        np.testing.assert_array_equal(again[path], value, err_msg=path)
    assert tensors["pipe.1.0.pre.0.num_batches_tracked"] == 7


def test_missing_surplus_and_misshapen_tensors_are_all_named(tmp_path):
    tensors = make_tensors()
    del tensors["pipe.0.weight"]
    tensors["pipe.9.weight"] = np.zeros(3, np.float32)
    tensors["pipe.1.0.main.1.bias"] = np.zeros(5, np.float32)
    tensors["pipe.3.weight"] = np.zeros(6, np.int64)
    message = refusal(tmp_path, make_content(tensors))
    assert "pipe.0.weight is missing" in message
    assert "'pipe.9.weight' is surplus" in message
    assert "pipe.1.0.main.1.bias: expected float32[4], got float32[5]" in message
    assert "pipe.3.weight: expected float32[6], got int64[6]" in message


def test_a_long_list_of_problems_is_cut(tmp_path):
    tensors = make_tensors()
    kept = {name: tensor for name, tensor in tensors.items() if name.endswith((".d", "running_mean"))}
    message = refusal(tmp_path, make_content(kept))
    assert message.count("is missing") == 8
    assert message.endswith(f"… and {len(tensors) - len(kept) - 8} more")


def test_names_from_the_file_cannot_break_the_line_or_the_terminal(tmp_path):
    tensors = make_tensors()
    tensors["new\nline \x1b[31m" + "x" * 500] = np.zeros(1, np.float32)
    message = refusal(tmp_path, make_content(tensors))
    assert r"'new\nline \x1b[31mxxx" in message
    assert len(message) < 200


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"l2_min": ..., "arch": ...}, "got no l2_min, arch"),
        ({"l2_min": 1}, "expected True or False, but 'l2_min' is 1"),
        ({"surplus": "x"}, "expected True or False, but 'surplus' is 'x'"),
        ({"robust_additions": False}, "robust_additions=False, but there is a bowl width 'pipe.1.0.pre.1.d'"),
        ({"robust_integration": "12"}, "expected a number as robust_integration, got '12'"),
        ({"robust_integration": float("nan")}, "expected a number as robust_integration, got nan"),
        ({"robust_integration": True}, "expected a number as robust_integration, got True"),
        ({"arch": [32, None, [1, 2], [4, 6]]}, "expected arch to be [32, "),
        ({"arch": [64, None, [1, 2], [4, 6], 3]}, "expected arch to be [32, "),
        ({"arch": [32, "f", [1, 2], [4, 6], 3]}, "expected arch to be [32, "),
        ({"arch": "resnet"}, "expected arch to be [32, "),
        ({"arch": [32, None, [1, -2], [4, 6], 3]}, "expected positive whole numbers"),
        ({"arch": [32, None, [1, 2.0], [4, 6], 3]}, "expected positive whole numbers"),
        ({"arch": [32, None, [1, 2], [4, 10**30], 3]}, "expected positive whole numbers"),
        ({"arch": [32, None, [1, 2], [4], 3]}, "expected as many stage lengths as stage widths"),
        ({"arch": [32, None, [1, 2], [4, 6], True]}, "expected positive whole numbers"),
        ({"arch": [32, None, [10**6, 2], [4, 6], 3]}, "arch has 1000002 blocks, but there are only"),
        ({"arch": [32, None, [2, 2], [4, 6], 3]}, "pipe.1.1.pre.0.weight is missing"),
        ({"input_offset": [[0.5, 0.25, 0.75]]}, "expected input_offset to be"),
        ({"input_offset": [[0.5, 0.25, "x"], [1.0, 1.0, 1.0]]}, "expected input_offset to be"),
        ({"input_offset": [[0.5, 0.25, 0.75], [0.125, 0.5, 1e300]]}, "expected the same input_offset"),
    ],
)
def test_wrong_training_options_are_explained(tmp_path, options, said):
    assert said in refusal(tmp_path, make_content(**options))


def test_bowl_widths_and_batch_counts_must_be_the_same_everywhere(tmp_path):
    tensors = make_tensors()
    tensors["pipe.4.d"] = np.array(0.75, np.float32)
    assert "expected the same d everywhere, got 0.25; 0.75" in refusal(tmp_path, make_content(tensors))
    tensors = make_tensors()
    tensors["pipe.3.num_batches_tracked"] = np.array(4)
    assert "expected the same num_batches_tracked everywhere, got 4; 123" in refusal(tmp_path, make_content(tensors))


@pytest.mark.parametrize("bowl_width", [0.0, -1.0, np.inf, np.nan])
def test_an_impossible_bowl_width_is_refused(tmp_path, bowl_width):
    tensors = make_tensors()
    tensors.update({name: np.array(bowl_width, np.float32) for name in tensors if name.endswith(".d")})
    message = refusal(tmp_path, make_content(tensors))
    assert "bowl width" in message or "same d everywhere" in message


def test_robust_additions_without_a_bowl_width_are_refused(tmp_path):
    arch = [32, None, [2, 1, 1], [4, 4, 6], 5]
    message = refusal(tmp_path, make_content(make_tensors(PLAIN), arch=arch))
    assert message == "training_options say robust_additions=True, but no tensor is a bowl width (pipe.*.d)"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"pipe.0.weight": np.zeros(2, np.float32)},
            "expected a state dict of a network's tensors, got 1 keys: 'pipe.0.weight'",
        ),
        ([1], "got a value of type list"),
        (None, "got None"),
        ({"model_params": [], "training_options": {}}, "expected a dict of tensors as model_params, got a value of"),
        ({"model_params": {"a": 1}, "training_options": {}}, "expected a tensor 'a', got 1"),
        ({"model_params": {}, "training_options": []}, "expected a dict of training_options, got a value of type list"),
    ],
)
def test_files_with_another_content_are_explained(tmp_path, content, said):
    assert said in refusal(tmp_path, content)
