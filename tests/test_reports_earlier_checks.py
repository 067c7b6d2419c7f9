"""Results that some earlier call left, or that somebody else made."""

import copy

import pytest

from advx_jax.data.image_set import CIFAR10_CLASSES
from advx_jax.errors import UserError
from advx_jax.reports.earlier_checks import check_explanations, check_measured, is_index
from advx_jax.reports.kept_work import earlier_results
from advx_jax.reports.results_json import head, write_json

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
    check_explanations({"images": [ENTRY]}, CIFAR10_CLASSES)
    check_measured({"measured": {"attack": {"7": [0.5, 3, True, True], "9": [None, 0, False, False]}}}, ["attack"], 10)


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
def test_an_entry_that_no_call_writes_is_refused(field, value):
    entry = {**copy.deepcopy(ENTRY), field: value}
    with pytest.raises(UserError, match="image number 0"):
        check_explanations({"images": [entry]}, CIFAR10_CLASSES)


@pytest.mark.parametrize("images", [None, {}, [3], "x"])
def test_other_lists_of_images_are_refused(images):
    with pytest.raises(UserError, match="expected"):
        check_explanations({"images": images}, CIFAR10_CLASSES)


@pytest.mark.parametrize("key", ["../../x", "-1", "10", "007", "٣", "²", "9" * 5000, "", "1\n"])
def test_keys_are_indices(key):
    assert not is_index(key, 10)
    with pytest.raises(UserError, match="expected images by index, from 0 to 9, got"):
        check_measured({"measured": {"attack": {key: [0.5, 3, True, True]}}}, ["attack"], 10)


@pytest.mark.parametrize("fields", [None, [], [0.5, 3, True], ["0.5", 3, True, True], [[0.5], 3, True, True]])
def test_other_distances_are_refused(fields):
    with pytest.raises(UserError, match="of image 7, got something else"):
        check_measured({"measured": {"attack": {"7": fields}}}, ["attack"], 10)


def test_a_refusal_names_the_file_and_what_to_do(tmp_path):
    path, new = tmp_path / "distances.json", head("ara", 1, {"eps": 1.0})
    write_json(path, {**new, "measured": {"attack": {"../../x\x1b": []}}})

    def check(earlier):
        check_measured(earlier, ["attack"], 10)

    with pytest.raises(UserError) as caught:
        earlier_results(path, new, False, check)
    assert str(caught.value) == (
        rf"cannot go on from {path}: expected images by index, from 0 to 9, got '../../x\x1b'; "
        "choose another --output, or --overwrite"
    )
    assert earlier_results(path, new, True, check) is None
    write_json(path, {**new, "settings": ["x"], "fingerprint": "other"})
    with pytest.raises(UserError, match=r"holds results of other settings \(eps=None there, 1.0 now\)"):
        earlier_results(path, new, False, check)
