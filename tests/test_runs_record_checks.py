"""Records that some earlier call left, or that somebody else made."""

import copy

import pytest

from advx_jax.data.image_set import CIFAR10_CLASSES
from advx_jax.runs.record_checks import is_distance, is_explanation, is_index

ENTRY = {
    "name": "3",
    "folder": "3-cat",
    "label": 3,
    "label_is_given": True,
    "predicted": 3,
    "second": 5,
    "confidences": [0.1] * 10,
    "logits": [0.5] * 9 + [None],
    "rms": [0.1] * 10,
    "first_ok": [1] * 10,
    "reached": [True] * 10,
}


def test_what_a_call_writes_is_taken():
    assert is_explanation(CIFAR10_CLASSES, "3-cat", ENTRY)
    assert is_distance(0.5, 3, True, True)
    assert is_distance(None, 0, False, False)
    assert all(is_index(key, 10) for key in "0123456789")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("folder", "../../evil"),
        ("name", ["x"]),
        ("name", "../../evil"),
        ("label", 10),
        ("label", True),
        ("predicted", -1),
        ("second", 1e9),
        ("confidences", [0.1] * 9),
        ("logits", ["0"] * 10),
        ("rms", [1e999] * 10),
        ("first_ok", None),
        ("reached", [1] * 10),
    ],
)
def test_an_entry_that_no_call_writes_is_not_taken(field, value):
    assert not is_explanation(CIFAR10_CLASSES, "3-cat", {**copy.deepcopy(ENTRY), field: value})


def test_an_entry_may_have_fewer_targets():
    few = ENTRY | {"targets": [7, 3], "rms": [0.1, None], "first_ok": [1, 2], "reached": [True, False]}
    assert is_explanation(CIFAR10_CLASSES, "3-cat", few)
    for targets in ([3], [3, 3], [3, 10], [], "37", [True, 3], [3, 7, 1]):
        assert not is_explanation(CIFAR10_CLASSES, "3-cat", few | {"targets": targets})


def test_an_entry_belongs_to_its_folder():
    assert not is_explanation(CIFAR10_CLASSES, "../../evil", {**ENTRY, "folder": "../../evil"})
    assert not is_explanation(CIFAR10_CLASSES, "4-cat", ENTRY)


@pytest.mark.parametrize("key", ["../../x", "-1", "10", "007", "٣", "²", "9" * 5000, "", "1\n"])
def test_keys_are_indices(key):
    assert not is_index(key, 10)


@pytest.mark.parametrize(
    "fields",
    [
        ("0.5", 3, True, True),
        ([0.5], 3, True, True),
        (0.5, 3.0, True, True),
        (0.5, 3, 1, True),
        (-0.5, 3, True, True),
        (1e999, 3, True, True),
        # What was crossed has a distance.
        (None, 3, True, True),
    ],
)
def test_other_distances_are_not_taken(fields):
    assert not is_distance(*fields)
