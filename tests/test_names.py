import pytest

from advx_jax.data.image_set import CIFAR10_CLASSES
from advx_jax.names import safe_class_name, safe_name, unique_names

LONG = "x" * 300
HOSTILE = [
    "../../etc/passwd",
    "a/b\\c",
    "..",
    ".",
    "",
    " ",
    ".hidden",
    "-rf",
    "a\nb\0c",
    '<script>"',
    "C:con",
    "\ud800",
]


@pytest.mark.parametrize("name", [*CIFAR10_CLASSES, "0", "9999", "IMG_1234", "été-2", "v1.2"])
def test_names_that_are_safe_stay_as_they_are(name):
    assert safe_name(name) == name


@pytest.mark.parametrize("name", [*HOSTILE, LONG, "猫" * 200, "e\u0301"])
def test_other_names_become_safe_ones(tmp_path, name):
    for safe in (safe_name(name), safe_class_name(name)):
        assert safe
        assert safe[0] not in ".-"
        assert not set(safe) & set('/\\<>:"|?*\0\n ')
        assert len(safe.encode()) <= 80
        assert safe_name(safe) == safe
        (tmp_path / safe).touch()
        assert (tmp_path / safe).resolve().parent == tmp_path.resolve()


def test_long_names_that_differ_at_the_end_stay_apart():
    assert safe_name(LONG + "a") != safe_name(LONG + "b")
    assert safe_name("猫" * 100) != safe_name("猫" * 101)


def test_a_class_never_holds_the_joint_of_a_folder_name():
    assert safe_class_name("wire-haired fox-terrier") == "wire_haired_fox_terrier"


def test_names_become_unique_in_their_safe_form_and_whatever_their_case():
    names = ["photo", "photo", "Photo", "a b", "a_b", "photo-2", "photo", "", "unnamed", LONG, LONG]
    unique = unique_names(names)
    safe = [safe_name(name).casefold() for name in unique]
    assert len(set(safe)) == len(names)
    assert unique[:5] == ["photo", "photo-2", "Photo-3", "a b", "a_b-2"]
    assert all(new.startswith(old) for new, old in zip(unique, names, strict=True))


def test_names_that_differ_are_left_alone():
    assert unique_names(["0", "1", "cat", "dog"]) == ["0", "1", "cat", "dog"]


@pytest.mark.parametrize("name", ["CON", "con", "nul.txt", "Aux.v2.pt", "COM1", "lpt9.png", "com\u00b9", "CONIN$"])
def test_devices_of_windows_are_no_names(name):
    assert safe_name(name) == "_" + name.replace("$", "_")


@pytest.mark.parametrize("name", ["contour", "console.v1", "com10", "auxiliary"])
def test_names_that_only_begin_like_a_device_stay(name):
    assert safe_name(name) == name


def test_nothing_in_a_name_acts_on_a_terminal_or_is_unseen():
    name = safe_name("a\x1b[31mb\u202ec\u200bd\u3164e\ue000")
    assert name == "a__31mb_c_d_e_"
    assert name.isprintable()
