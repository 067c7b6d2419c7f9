"""Training on a person's own images: what comes from the data, and what comes out."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from processes import fail, succeed

from advx_jax.configs import digits as digits_config
from advx_jax.configs import own_images as own_images_config
from advx_jax.configs import standard as standard_config
from advx_jax.data.digits import digits
from advx_jax.data.image_set import ImageSet
from advx_jax.data.sources import load_images, load_splits
from advx_jax.errors import UserError
from advx_jax.networks.files import load_network
from advx_jax.networks.resnet import CIFAR10_MEAN, CIFAR10_STD, ResNetArchitecture
from advx_jax.training.data_facts import CIFAR10_FACTS, DataFacts, facts_of
from advx_jax.training.fit import check_fit
from advx_jax.training.loop import Data
from advx_jax.training.recipe import completed, recipe_from_config
from advx_jax.training.state import classifier_of, initial_state, make_optimizer

GREY = DataFacts(3, (14, 20, 1), ("a", "b", "c"), (0.25,), (0.5,))


def set_of(n: int, shape=(6, 4, 3), n_classes: int = 3) -> ImageSet:
    rng = np.random.default_rng(0)
    names = tuple(f"name {number}" for number in range(n_classes))
    return ImageSet(rng.integers(0, 256, (n, *shape), np.uint8), np.arange(n) % n_classes, names, "mine")


def test_normalisation_is_that_of_the_training_images():
    data = set_of(1500)
    facts = facts_of(data)
    images = data.images / 255
    np.testing.assert_allclose(facts.mean, images.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(facts.std, images.std((0, 1, 2)), atol=1e-4)
    assert (facts.n_classes, facts.image_shape, facts.class_names) == (3, (6, 4, 3), data.class_names)
    # A channel that is always the same.
    assert facts_of(ImageSet(np.zeros((2, 3, 3, 1), np.uint8), np.arange(2), ("a", "b"), "")).std == (0.0039,)


def test_cifar10_is_normalised_as_published():
    assert facts_of(load_images("sample")) == CIFAR10_FACTS
    assert (CIFAR10_FACTS.mean, CIFAR10_FACTS.std) == (CIFAR10_MEAN, CIFAR10_STD)


def test_a_recipe_takes_classes_size_and_padding_from_the_data():
    config = standard_config.get_config().to_dict()
    recipe = recipe_from_config(config, GREY)
    assert recipe.architecture == ResNetArchitecture((7, 7, 7), n_classes=3, image_shape=(14, 20, 1))
    # 4 of 32 pixels.
    assert recipe.augmentation.padding == 2
    assert recipe_from_config(config, DataFacts(image_shape=(224, 224, 3))).augmentation.padding == 28
    assert recipe_from_config(config).augmentation.padding == 4
    assert completed(config, GREY)["architecture"]["n_classes"] == 3


def test_configs_of_earlier_releases_are_complete_all_the_same():
    config = standard_config.get_config().to_dict()
    before = {name: value for name, value in config.items() if name != "image_size"}
    before["architecture"] = {name: value for name, value in config["architecture"].items() if name != "name"}
    before["architecture"]["n_classes"] = 10
    assert recipe_from_config(before) == recipe_from_config(config)
    assert completed(before) == completed(config, CIFAR10_FACTS)


@pytest.mark.parametrize("name", ["PreActResNet-18", "WideResNet-10-1"])
def test_networks_of_other_families_by_name(name):
    config = standard_config.get_config().to_dict()
    config["architecture"]["name"] = name
    recipe = recipe_from_config(config, GREY)
    assert recipe.architecture.name == name
    state = jax.eval_shape(lambda: initial_state(recipe, make_optimizer(recipe, 1)))
    images = jax.ShapeDtypeStruct((2, 14, 20, 1), np.float32)
    logits = jax.eval_shape(lambda state, x: classifier_of(state, recipe)(x), state, images)
    assert logits.shape == (2, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "WideResNet-11-1"}, "config.architecture.name: "),
        ({"name": "nothing"}, "config.architecture.name: expected an architecture such as"),
        ({"name": "WideResNet-10-1", "activation": "half_huber"}, "expected relu beside the name WideResNet-10-1"),
    ],
)
def test_impossible_networks_are_refused(changes, message):
    config = standard_config.get_config().to_dict()
    config["architecture"].update(changes)
    with pytest.raises(UserError, match=message):
        recipe_from_config(config)


def test_a_fresh_network_normalises_with_the_datas_numbers():
    config = digits_config.get_config().to_dict()
    recipe = recipe_from_config(config, GREY)
    state = initial_state(recipe, make_optimizer(recipe, 1))
    assert {name: value.tolist() for name, value in state.constants.items()} == {"mean": [0.25], "std": [0.5]}
    assert classifier_of(state, recipe).class_names == ("a", "b", "c")


def test_data_that_do_not_fit_are_refused():
    config = standard_config.get_config().to_dict()
    config["architecture"]["n_classes"] = 4
    train = set_of(600)
    recipe = recipe_from_config(config, facts_of(train))
    with pytest.raises(UserError, match=r"n_classes: expected 3, or 0 for as many as the data have, got 4"):
        check_fit(recipe, Data(train, train))
    config["architecture"]["n_classes"] = 0
    recipe = recipe_from_config(config, facts_of(train))
    with pytest.raises(UserError, match="images to test with of 6×4×3, got 4×4×3"):
        check_fit(recipe, Data(train, set_of(600, (4, 4, 3))))


def test_images_without_splits_are_divided_the_same_way_each_time(tmp_path):
    images = set_of(20).images
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(20) % 4)
    train, test = load_splits(str(tmp_path / "own.npz"))
    assert (len(train), len(test)) == (16, 4)
    assert "4 of 20 drawn for testing" in test.source
    found = [image.tobytes() for part in (train, test) for image in part.images]
    assert sorted(found) == sorted(image.tobytes() for image in images)
    assert load_splits(str(tmp_path / "own.npz"))[1].fingerprint == test.fingerprint
    # Although not every class need be among the few.
    assert test.class_names == train.class_names == tuple(f"class_{number}" for number in range(4))


def test_splits_have_the_same_size_and_classes(tmp_path):
    for name in ("train/dog/1.png", "train/cat/1.png", "test/dog/2.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        Image.fromarray(set_of(1, (10, 12, 3)).images[0]).save(path)
    Image.fromarray(set_of(1, (20, 20, 3)).images[0]).save(tmp_path / "test/dog/3.png")
    train, test = load_splits(str(tmp_path))
    assert test.images.shape == (2, 10, 12, 3)
    assert isinstance(test.images, np.ndarray)
    assert test.labels.tolist() == [1, 1]
    train, test = load_splits(str(tmp_path), (8, 8))
    assert train.images.shape[1:] == test.images.shape[1:] == (8, 8, 3)


def test_digits_are_always_the_same():
    train, test = (digits(split) for split in ("train", "test"))
    assert train.images.shape == (2000, 28, 28, 1)
    assert np.bincount(test.labels).tolist() == [50] * 10
    assert not {image.tobytes() for image in test.images} & {image.tobytes() for image in train.images}
    found = load_splits("advx_jax.data.digits:digits")
    assert [part.fingerprint for part in found] == [train.fingerprint, test.fingerprint]


def test_own_images_recipe_is_complete():
    recipe = recipe_from_config(own_images_config.get_config().to_dict(), DataFacts(7, (64, 64, 3)))
    assert recipe.architecture.name == "ResNet-20"
    assert (recipe.image_size, recipe.augmentation.padding) == (64, 8)


TINY = (
    "--config.architecture.stage_lengths=(1,1)",
    "--config.architecture.stage_widths=(4,6)",
    "--config.attack.kind=none",
    "--config.batch_size=10",
)


@pytest.mark.slow
def test_what_was_trained_on_own_images_is_taken_by_every_command(tmp_path):
    """Grey images in class folders, in two sizes: trained at 12x12, explained by their names."""
    rng = np.random.default_rng(0)
    for place in range(30):
        side, name = (16, 24)[place % 2], ("hole", "bar")[place % 3 % 2]
        image = rng.integers(0, 40, (side, side), np.uint8)
        image[side // 4 : -side // 4, side // 4 : (-side // 4 if name == "hole" else None)] += 180
        path = tmp_path / "shapes" / name / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    flags = (*TINY, "--config.data=shapes", "--config.image_size=12", "--workdir=run")
    out = succeed(tmp_path, "train", "--config=configs/own_images.py", "--config.epochs=2", *flags)
    assert "test accuracy" in out
    network, _ = load_network(tmp_path / "run/network.safetensors")
    assert network.class_names == ("bar", "hole")
    assert network.image_shape == (12, 12, 1)
    kept = json.loads((tmp_path / "run/config.json").read_text())
    assert kept["config"]["architecture"]["n_classes"] == 2
    np.testing.assert_allclose(kept["data"]["mean"], network.variables["constants"]["mean"], rtol=1e-6)
    # Without the recipe, the workdir knows; nothing is left to do.
    assert "test accuracy" in succeed(tmp_path, "train", "--workdir=run")
    # Files of any size, without classes and with them.
    out = succeed(tmp_path, "explain", "--model=run", "--images=shapes", "--steps=2", "--output=explained")
    found = json.loads((tmp_path / "explained/explanations.json").read_text())
    assert found["class_names"] == ["bar", "hole"]
    assert all(entry["label_is_given"] for entry in found["images"])
    out = succeed(tmp_path, "evaluate", "--model=run", "--data=shapes")
    assert "on 30 test images" in out
    message = fail(tmp_path, "train", "--config=configs/own_images.py", *flags)
    assert "epochs: 2 there, 30 now" in message


@pytest.mark.slow
def test_digits_are_learnt_in_a_minute(tmp_path):
    succeed(tmp_path, "train", "--config=configs/digits.py", "--workdir=run")
    flags = ("--model=run", "--data=advx_jax.data.digits:digits")
    succeed(tmp_path, "evaluate", *flags, "--output=accuracy.json")
    assert json.loads((tmp_path / "accuracy.json").read_text())["accuracy"] > 0.95
    succeed(tmp_path, "robustness", *flags, "--eps=1", "--n_images=8", "--attack=apgd-ce", "--output=robust")
    succeed(tmp_path, "ara", *flags, "--n_images=4", "--steps=50", "--eps=1", "--output=area")
    succeed(tmp_path, "explain", *flags, "--n_images=2", "--output=explained")
    assert (tmp_path / "explained/index.html").is_file()
