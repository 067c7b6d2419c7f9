"""`explain` with methods to compare with: what it writes, that it goes on, and what it is told of another norm."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from networks import TINY, random_classifier
from stores import kept_records

from advx_jax.analysis.attribution import (
    Gradient,
    IntegratedGradients,
    Occlusion,
    SmoothGrad,
    attribute_images,
    completeness_gap,
)
from advx_jax.analysis.comparison import chosen_methods, image_keys
from advx_jax.analysis.explanations import explain
from advx_jax.analysis.faithfulness.counterfactual import counterfactual_quality
from advx_jax.attacks import EXPLANATION, EXPLANATIONS
from advx_jax.data.image_set import ImageSet, unit_images
from advx_jax.errors import UserError
from advx_jax.networks.adapters import from_function
from advx_jax.networks.classifier import Provenance
from advx_jax.networks.registry import OwnModel, ResolvedNetwork
from advx_jax.reports.heat_maps import by_position
from advx_jax.runs.explain import ExplanationPictures, given_images, write_explanations
from advx_jax.runs.shares import Share

N, K = 3, 3
NAMES = ("cat", "dog", "fish")
ATTACK = EXPLANATION.replace(steps=3)
METHODS = {
    **chosen_methods("adversarial", ATTACK),
    "integrated_gradients": IntegratedGradients(steps=3),
    "smoothgrad": SmoothGrad(samples=2),
    **chosen_methods("grad-cam", ATTACK),
}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    classifier = random_classifier(architecture=dataclasses.replace(TINY, n_classes=K))
    return ResolvedNetwork(classifier, Provenance(name="three"), tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    return ImageSet(random.integers(0, 256, (N, 32, 32, 3), np.uint8), np.arange(N), NAMES, "a test")


def written(network, data, output, count=N, methods=METHODS, attack=ATTACK, **options):
    images = given_images(data, range(count))
    return write_explanations(network, images, attack, output, False, False, methods=methods, **options)


def results(folder):
    return json.loads((folder / "explanations.json").read_text())


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")}


@pytest.fixture(scope="module")
def whole(network, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    written(network, data, folder)
    return folder


def test_what_the_methods_gave_stands_in_the_results(whole, network, data):
    found = results(whole)
    assert found["settings"]["methods"]["integrated_gradients"]["steps"] == 3
    assert found["settings"]["methods"]["adversarial"] == {"method": "adversarial"}
    x = unit_images(data.images)
    classes = np.tile(np.arange(K), (N, 1))
    explanations = [explanation for _, explanation in sorted(explain(network.classifier, x, ATTACK))]
    for name, method in METHODS.items():
        direct = np.stack([one.perturbations for one in explanations])
        if name != "adversarial":
            # By itself, with the keys that the images alone decide.
            direct = attribute_images(network.classifier, x, classes, method, image_keys(x))
        maps = [by_position(one) for one in direct]
        for entry, of_image in zip(found["images"], maps, strict=True):
            told = entry["methods"][name]
            np.testing.assert_allclose(told["sum"], of_image.sum((1, 2)), rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(told["scale"], np.percentile(np.abs(of_image), 99), rtol=1e-3)
            assert [(whole / path).is_file() for path in told["pictures"]] == [True] * K
            assert ("completeness_gap" in told) == (name == "integrated_gradients")
            if "completeness_gap" in told:
                place, method = int(entry["name"]), METHODS[name]
                image = np.tile(x[place], (K, 1, 1, 1))
                gaps = completeness_gap(network.classifier, image, np.arange(K), direct[place], method.baselines(image))
                np.testing.assert_allclose(told["completeness_gap"], gaps, rtol=0.02, atol=1e-4)


def test_explanations_are_judged_as_counterfactuals(whole, network, data):
    x = unit_images(data.images)
    for place, explanation in explain(network.classifier, x, ATTACK):
        image = np.tile(x[place], (K, 1, 1, 1))
        quality = counterfactual_quality(
            network.classifier, image, image + explanation.perturbations, np.arange(K, dtype=np.int32)
        )
        told = results(whole)["images"][place]["counterfactual"]
        assert set(told) == set(quality._fields)
        for name, values in quality._asdict().items():
            np.testing.assert_allclose(told[name], values, rtol=1e-4, atol=1e-5)


def test_it_goes_on_where_it_was_interrupted_and_in_shards(whole, network, data, tmp_path):
    """Images alone, and in another order, have the same numbers and pictures, down to the noise."""
    assert "cost: " not in written(network, data, tmp_path, share=Share(1, 2))  # said on standard error, before
    shutil.rmtree(tmp_path / "attributions" / "grad_cam" / "1-dog")
    written(network, data, tmp_path, 2)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    written(network, data, tmp_path)
    assert before.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}.items()
    assert files(tmp_path) == files(whole)
    assert results(tmp_path)["images"] == results(whole)["images"]
    page = (tmp_path / "index.html").read_text()
    assert page == (whole / "index.html").read_text()
    assert page.count('aria-label="towards ') == N * K
    assert page.count(' by grad cam"') == N * K
    with pytest.raises(UserError, match=r"methods\.smoothgrad\.sigma=0\.15 there, 0\.5 now\)"):
        written(network, data, tmp_path, methods=METHODS | {"smoothgrad": SmoothGrad(samples=2, sigma=0.5)})
    with pytest.raises(UserError, match=r"methods=adversarial\+.*\+grad_cam there, nothing now\)"):
        written(network, data, tmp_path, methods={})
    images = given_images(data, [0])
    write_explanations(network, images, ATTACK, tmp_path, True, False)
    assert not (tmp_path / "attributions").exists()


def test_the_cost_is_said_before_and_completeness_after(network, data, tmp_path, capfd):
    out = written(network, data, tmp_path, 1, {"integrated_gradients": IntegratedGradients(steps=3)})
    assert "1 image explained towards each of 3 classes by three, compared with integrated_gradients\n" in out
    assert "integrated_gradients adds up to the change of the logit within " in out
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == (
        "cost: 1 image × 3 classes × 18 passes (adversarial 9, integrated_gradients 9; a gradient counts as 3) = "
        "54 passes through three"
    )


def test_nothing_is_new_where_nobody_asks(network, data, tmp_path, capfd):
    written(network, data, tmp_path, 1, {})
    found = results(tmp_path)
    assert "methods" not in found["settings"]
    assert list(found["images"][0]) == [
        *("name", "folder", "label", "label_is_given", "predicted", "second", "confidences", "logits"),
        *("rms", "first_ok", "reached", "input_sha256"),
    ]
    assert not (tmp_path / "attributions").exists()
    assert "cost" not in capfd.readouterr().err
    assert "Heat maps" not in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize(("norm", "words"), [("Linf", "L∞ norm 8/255"), ("L1.5", "L1.5 norm 12")])
def test_the_norm_can_be_another(norm, words, network, data, tmp_path):
    # A step ends on the ball's surface; a few turn about inside of it.
    written(network, data, tmp_path, 1, {}, EXPLANATIONS[norm].with_settings(steps=1))
    found = results(tmp_path)
    assert found["settings"]["norm"] == norm
    quality = found["images"][0]["counterfactual"]
    assert found["images"][0]["methods"] == {}
    assert max(quality["linf"]) <= (8.001 / 255 if norm == "Linf" else 1)
    assert f"All 3 explanations reached {words}." in (tmp_path / "index.html").read_text()


def mean_colour(images):
    return images.mean((1, 2))


def test_what_a_method_needs_is_said_before_any_work(data, tmp_path):
    model = OwnModel(from_function(mean_colour, image_shape=(32, 32, 3)).of_images((32, 32, 3), K), Provenance("f"))
    with pytest.raises(UserError, match="the method grad_cam cannot be used here: expected a network of Flax Linen"):
        written(model, data, tmp_path / "none")
    with pytest.raises(UserError, match="the method occlusion cannot be used here: expected a window of at most"):
        written(model, data, tmp_path / "none", methods={"occlusion": Occlusion(window=40)})
    assert not (tmp_path / "none").exists()
    written(model, data, tmp_path / "some", 1, {"gradient": Gradient()})
    # Of three means of colours, each value of a channel has the same slope, and no other channel any.
    np.testing.assert_allclose(results(tmp_path / "some")["images"][0]["methods"]["gradient"]["sum"], 1, rtol=1e-5)


def test_records_of_other_methods_are_made_again(network, data, tmp_path):
    written(network, data, tmp_path, 1, {"gradient": Gradient()})
    measured = ExplanationPictures(network, given_images(data, [0]), ATTACK, tmp_path, methods={"gradient": Gradient()})
    (record,) = kept_records(tmp_path / "explanations.jsonl").values()
    assert measured.is_valid("0-cat", record)
    gradient, quality = record["methods"]["gradient"], record["counterfactual"]
    for change in (
        {"methods": {}},
        {"methods": {"gradient": gradient | {"sum": [1.0]}}},
        {"methods": {"gradient": gradient | {"scale": None}}},
        {"methods": {"gradient": gradient | {"scale": -1.0}}},
        {"methods": {"gradient": gradient | {"pictures": None}}},
        {"methods": {"gradient": gradient | {"other": 1}}},
        {"methods": {"gradient": [1]}},
        {"counterfactual": None},
        {"counterfactual": quality | {"valid": [1] * K}},
        {"counterfactual": quality | {"l2": [1.0]}},
        {"counterfactual": {name: quality[name] for name in ("valid", "l2")}},
    ):
        assert not measured.is_valid("0-cat", record | change), change


def test_methods_are_chosen_by_name():
    both = chosen_methods(["Smoothgrad", Gradient()], ATTACK)
    assert list(both) == ["smoothgrad", "gradient"]
    assert chosen_methods(Gradient(), ATTACK) == {"gradient": Gradient()}
    assert chosen_methods({"mine": Gradient()}, ATTACK) == {"mine": Gradient()}
    assert chosen_methods("adversarial", ATTACK)["adversarial"].attack is ATTACK
    for methods, message in (("gradient,gradient", "each method once, got gradient twice"), ("g", "got 'g'")):
        with pytest.raises(UserError, match=message):
            chosen_methods(methods, ATTACK)


def test_an_images_draws_depend_on_it_alone(data):
    x = unit_images(data.images)
    keys = jax.random.key_data(image_keys(x))
    assert len(np.unique(keys, axis=0)) == N
    np.testing.assert_array_equal(jax.random.key_data(image_keys(x[::-1])), keys[::-1])
