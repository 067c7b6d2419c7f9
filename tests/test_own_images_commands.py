"""All commands with a person's own network and images: grey and not square, three classes with names."""

import json

import numpy as np
import pytest
from PIL import Image
from processes import fail, succeed

# Tells the classes of these images apart: each is bright in another third.
MINE = """
import jax.numpy as jnp

def net(images):
    thirds = images[..., :18, :].mean((1, 3)).reshape(len(images), 3, 6).mean(-1)
    return 8 * thirds - 4 * thirds.mean(-1, keepdims=True)

def named(images):
    return net(images)

named.class_names = ("right", "left", "middle")
named.image_shape = (12, 18, 1)

def colour(images):
    return net(images)

colour.image_shape = (12, 18, 3)
"""
NAMES = ("left", "middle", "right")


def images_of(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    images = rng.integers(0, 60, (n, 12, 18), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 6 * label : 6 * label + 6] += 120
    return images, labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("own")
    (path / "mine.py").write_text(MINE)
    images, labels = images_of(9)
    np.savez(path / "named.npz", images=images, labels=labels, class_names=np.array(NAMES))
    np.savez(path / "numbered.npz", images=images, labels=labels)
    np.savez(path / "four.npz", images=images, labels=np.arange(9) % 4)
    for place, (image, label) in enumerate(zip(images, labels, strict=True)):
        target = path / "thirds" / NAMES[label] / f"{place}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        # Twice as large: brought to what the network takes.
        Image.fromarray(image).resize((36, 24), Image.Resampling.NEAREST).save(target)
    return path


def results(folder, name: str):
    return json.loads((folder / name).read_text())


def test_evaluate_takes_arrays_and_folders(folder):
    out = succeed(folder, "evaluate", "--model=mine:net", "--data=named.npz", "--output=a.json")
    assert "named.npz" in out
    assert results(folder, "a.json")["accuracy"] == 1
    # The folder's classes are called as the network calls them, in another order.
    out = succeed(folder, "evaluate", "--model=mine:named", "--data=thirds", "--output=b.json")
    found = results(folder, "b.json")
    assert found["n_images"] == 9
    # It says right for left, and so on.
    assert found["accuracy"] == 0
    assert "thirds, as 12×18×1" in out


def test_explain_names_classes_and_takes_indices(folder):
    flags = ("--model=mine:net", "--data=named.npz", "--indices=4,8", "--steps=3", "--output=explained")
    succeed(folder, "explain", *flags)
    found = results(folder, "explained/explanations.json")
    assert found["class_names"] == list(NAMES)
    assert [entry["folder"] for entry in found["images"]] == ["4-middle", "8-right"]
    with Image.open(folder / "explained/4-middle/_input.png") as image:
        np.testing.assert_array_equal(np.asarray(image), images_of(9)[0][4])
    assert "middle" in (folder / "explained/index.html").read_text()


def test_ara_draws_its_subset_and_says_how(folder):
    flags = ("--model=mine:net", "--steps=8", "--eps=3", "--n_images=4", "--output=area")
    succeed(folder, "ara", *flags, "--data=numbered.npz")
    found = results(folder, "area/ara.json")
    assert found["settings"]["subset_seed"] == 1776
    indices = found["attack"]["indices"]
    assert len(set(indices)) == 4
    assert max(indices) < 9
    assert found["attack"]["n_classes"] == 3


def test_robustness_writes_pictures_with_the_names_of_classes(folder):
    flags = ("--model=mine:net", "--data=thirds", "--image_size=12,18", "--attack=pgd", "--steps=3", "--n_images=3")
    succeed(folder, "robustness", *flags, "--eps=5", "--pictures", "--output=broken")
    found = results(folder, "broken/robustness.json")
    assert found["accuracy"] == 1
    assert found["robust_accuracy"] < 1
    pictures = sorted(path.name for path in (folder / "broken/pictures").iterdir())
    assert pictures[0].startswith("0-left-as-")
    with Image.open(folder / "broken/pictures" / pictures[0]) as image:
        assert image.mode == "L"


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("evaluate", ["--model=mine:net", "--data=four.npz"], "expected labels from 0 to 2 for a network of 3 classes"),
        ("explain", ["--model=mine:named"], "expected --data for a network that takes images of 12×18×1, got none"),
        ("ara", ["--model=mine:net", "--data=nowhere"], "class folders or with CIFAR-10"),
        (
            "robustness",
            ["--model=mine:net", "--eps=12", "--data=sample"],
            "expected a network for the data's 10 classes",
        ),
        ("robustness", ["--model=mine:net", "--eps=15", "--data=named.npz"], "did you mean --eps=15/255?"),
        (
            "evaluate",
            ["--model=mine:net", "--data=thirds", "--image_size=12y18"],
            "expected height and width in pixels",
        ),
        (
            "evaluate",
            ["--model=mine:net", "--data=thirds", "--compute_dtype=tensorfloat32"],
            "it computes as it is written",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_the_work(folder, command, arguments, message):
    assert message in fail(folder, command, *arguments)


def test_grey_images_are_coloured_for_a_network_that_takes_colour(folder):
    succeed(folder, "evaluate", "--model=mine:colour", "--data=numbered.npz", "--output=c.json")
    assert results(folder, "c.json")["accuracy"] == 1
