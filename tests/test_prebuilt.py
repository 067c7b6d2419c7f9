"""The networks that ship with the package, and what is said of them."""

import importlib
import importlib.resources
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from parametrised import some

from advx_jax.analysis.accuracy import predict
from advx_jax.analysis.robustness_area import minimum_norm_distances
from advx_jax.analysis.subset import published_subset
from advx_jax.data.image_set import unit_images
from advx_jax.data.sample import load_sample
from advx_jax.data.sources import load_images
from advx_jax.networks.registry import first_choice, resolve_network
from advx_jax.training.recipe import recipe_from_config

ROOT = Path(__file__).parents[1]
# The benchmarks are no part of what is installed.
sys.path.insert(0, str(ROOT))

from benchmarks import faithfulness_table, minimum_norm_table
from benchmarks.measured import files_of, measurements
from benchmarks.results_table import DOCUMENTS, with_tables

CONTENT = json.loads((importlib.resources.files("advx_jax.prebuilt") / "manifest.json").read_text(encoding="utf-8"))
SHIPPED = [name for name, entry in CONTENT["networks"].items() if "url" not in entry]
MEASURED = [name for name, entry in CONTENT["networks"].items() if "measured" in entry]
# Logits agree to 1e-5 between machines; so close a call that one image changes sides is rare, two are not expected.
IMAGES_THAT_MAY_CHANGE = 1
# Rounding moves single distances after 450 steps; most stay.
DISTANCE_TOLERANCE = 0.02


def test_an_ordinary_and_a_robust_network_ship():
    assert set(first_choice()) <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_networks_are_those_that_their_recipes_make(name):
    entry = CONTENT["networks"][name]
    trained = entry["trained"]
    recipe = recipe_from_config(
        importlib.import_module(f"advx_jax.configs.{Path(trained['config']).stem}").get_config().to_dict()
    )
    # Checks the file's sha256.
    network = resolve_network(name)
    assert network.path.name == entry["file"]
    assert recipe.name == name
    assert network.classifier.architecture == recipe.architecture
    assert trained["epochs"] == recipe.epochs
    assert trained["hours"] > 0
    assert (network.provenance.psi_integrator is not None) == ("final_psi" in trained) == (recipe.penalty is not None)
    if recipe.penalty:
        psi = recipe.penalty.weight_at_zero * np.exp(recipe.penalty.rate * network.provenance.psi_integrator)
        assert round(psi) == trained["final_psi"]


@some("name", SHIPPED, by_default=("resnet20-quick-robust", first_choice().robust))
def test_accuracy_on_the_sample_is_that_of_the_manifest(name):
    sample = load_sample()
    labels = sample.labels.astype(np.int32)
    found = predict(resolve_network(name).classifier, unit_images(sample.images))
    n_correct = int((found.classes == labels).sum())
    assert abs(n_correct - CONTENT["networks"][name]["measured"]["sample_correct"]) <= IMAGES_THAT_MAY_CHANGE


@pytest.mark.usefixtures("compiled_as_people_do")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20-quick-robust", first_choice().robust])
def test_distances_on_the_sample_are_those_of_the_record(name):
    """Of robust networks: with their Half-Huber ReLU distances hardly depend on rounding."""
    ara = json.loads((files_of(name).ara / "ara.json").read_text(encoding="utf-8"))
    sample = load_sample()
    known = dict(zip(ara["attack"]["indices"], ara["attack"]["distances"], strict=True))
    places = [index for index in published_subset(len(sample), len(sample)) if index in known][:2]
    assert len(places) == 2
    images, labels = unit_images(sample.images[places]), sample.labels[places].astype(np.int32)
    for part, found in minimum_norm_distances(resolve_network(name).classifier, images, labels):
        expected = [known[places[place]] for place in part]
        np.testing.assert_allclose(found.distances, expected, rtol=DISTANCE_TOLERANCE)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", MEASURED)
def test_the_manifest_says_what_was_measured(name):
    assert CONTENT["networks"][name]["measured"] == measurements(name)


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_measured_of_a_shipped_network_is_measured_on_that_file(name):
    files, sha256 = files_of(name), resolve_network(name).classifier.fingerprint()
    for path in (
        files.accuracy,
        files.sample_accuracy,
        files.ara / "ara.json",
        files.explanations / "explanations.json",
    ):
        assert json.loads(path.read_text(encoding="utf-8"))["settings"]["network_sha256"] == sha256


@pytest.mark.parametrize("name", MEASURED)
def test_what_is_measured_does_not_tell_where(name):
    for path in files_of(name).accuracy.parent.rglob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        assert not content.get("data", "").partition(" in /")[2], path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_tables_are_those_that_the_measurements_make(document):
    text = document.read_text(encoding="utf-8")
    assert with_tables(text, CONTENT["networks"]) == text


def test_the_tables_of_faithfulness_are_those_that_the_measurements_make():
    text = faithfulness_table.DOCUMENT.read_text(encoding="utf-8")
    assert faithfulness_table.with_its_tables(text, CONTENT["networks"]) == text


def test_the_table_of_minimum_norm_attacks_is_what_the_measurements_make():
    text = minimum_norm_table.DOCUMENT.read_text(encoding="utf-8")
    assert minimum_norm_table.with_its_tables(text, CONTENT["networks"]) == text


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_accuracy_on_all_test_images_is_that_of_the_manifest(name):
    data = load_images(None, "test")
    if len(data) != 10_000:
        pytest.skip("needs all test images: python -m advx_jax.data.cifar10")
    labels = data.labels.astype(np.int32)
    found = predict(resolve_network(name).classifier, unit_images(data.images))
    expected = CONTENT["networks"][name]["measured"]["test_accuracy"]
    assert abs(found.accuracy(labels) - expected) <= IMAGES_THAT_MAY_CHANGE / len(data)
