"""Networks of other classes than CIFAR-10's, and distances that were not found, in what the commands write."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from networks import TINY, random_classifier
from stores import kept_records

from advx_jax.analysis.accuracy import predict
from advx_jax.analysis.robustness_area import robustness_curve
from advx_jax.attacks import EXPLANATION, FAB, Published, SmallestSuccess, Square
from advx_jax.data.image_set import CIFAR10_CLASSES, ImageSet, unit_images
from advx_jax.data.own_images import OwnImage
from advx_jax.errors import UserError
from advx_jax.networks.classifier import Provenance
from advx_jax.networks.registry import ResolvedNetwork
from advx_jax.reports.results_json import fingerprint
from advx_jax.runs.ara import RobustnessAreas
from advx_jax.runs.evaluate import Evaluation
from advx_jax.runs.explain import given_images, own_images, write_explanations
from advx_jax.runs.measurement import measure
from advx_jax.runs.robustness import RobustAccuracy

N, K = 6, 3
STRONG = Published(eps=5.0, steps=12)
# Numbers alone differ, which needs no compilation.
WEAK = Published(eps=1e-6, steps=12, momentum=0.0)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    classifier = random_classifier(architecture=dataclasses.replace(TINY, n_classes=K))
    return ResolvedNetwork(classifier, Provenance(name="three"), tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def data(network):
    """Images of which the network takes all but the first for what they are."""
    images = np.random.default_rng(0).integers(0, 256, (N, 32, 32, 3), np.uint8)
    labels = predict(network.classifier, unit_images(images)).classes.astype(np.int64)
    labels[0] = (labels[0] + 1) % K
    return ImageSet(images, labels, ("cat", "dog", "fish"), "a test")


def measure_areas(*arguments):
    return measure(RobustnessAreas(*arguments)).text


def area_file(folder):
    return json.loads((folder / "ara.json").read_text())


@pytest.mark.slow
def test_the_area_is_that_of_the_networks_number_of_classes(network, data, tmp_path):
    measure_areas(network, data, N, STRONG, tmp_path)
    results = area_file(tmp_path)
    for kind in ("attack", "btr"):
        found = results[kind]
        assert found["n_classes"] == K
        assert all(found["crossed"])
        assert found["ara"] == found["ara_at_least"] == robustness_curve(found["distances"], K).area
        assert found["ara"] != robustness_curve(found["distances"], 10).area
    assert results["attack"]["n_misclassified_at_start"] == 1

    # Summed up elsewhere than where it was computed.
    assert "computed_in" not in results
    [kept] = tmp_path.glob("*.jsonl")
    begin, rest = kept.read_text().split("\n", 1)
    begin = json.loads(begin)
    begin["environment"]["device"]["kind"] = "another"
    kept.write_text(json.dumps(begin) + "\n" + rest)
    measure_areas(network, data, N, STRONG, tmp_path)
    assert area_file(tmp_path) == results | {"computed_in": [begin["environment"]]}


def test_what_was_never_crossed_is_no_distance_0(network, data, tmp_path):
    text = measure_areas(network, data, N, WEAK, tmp_path)
    assert "≥ 0.0000" in text
    assert "more than a share of 1/K of the images was never crossed" in text
    results = area_file(tmp_path)
    found = results["attack"]
    assert found["ara"] is None
    assert found["ara_at_least"] == 0
    assert (found["n_never_crossed"], found["n_misclassified_at_start"], found["n_not_finite"]) == (N - 1, 1, 0)
    assert [d for d, crossed in zip(found["distances"], found["crossed"], strict=True) if not crossed] == [None] * 5
    assert all(found["finite"])
    assert (tmp_path / "ara.png").stat().st_size

    # What earlier releases kept of it, a 0 for each, is read as the same.
    settings = {name: value for name, value in results["settings"].items() if name != "n_images"}
    kept = results | {"settings": settings, "fingerprint": fingerprint(settings), "measured": {}}
    for kind in ("attack", "btr"):
        columns = (results[kind][name] for name in ("indices", "distances", "first_ok", "crossed", "finite"))
        kept["measured"][kind] = {str(index): [d or 0.0, *flags] for index, d, *flags in zip(*columns, strict=True)}
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "distances.json").write_text(json.dumps(kept))
    measure_areas(network, data, N, WEAK, tmp_path / "older")
    records = kept_records(tmp_path / "older" / "distances.jsonl")
    assert sum(record["distances"] == 0.0 for record in records.values()) > 2  # read, not measured
    assert area_file(tmp_path / "older")["attack"] == found


@pytest.fixture(scope="module")
def measured(network, data, tmp_path_factory):
    """A folder with measured distances."""
    folder = tmp_path_factory.mktemp("measured")
    measure_areas(network, data, N, WEAK, folder)
    return folder


@pytest.mark.parametrize(
    "change",
    [
        {"distances": None, "crossed": True},
        {"crossed": 1},
        *(
            pytest.param(change, marks=pytest.mark.slow)
            for change in ({"distances": -1.0}, {"further": 1}, {"distances": []})
        ),
    ],
)
def test_records_that_are_none_are_measured_again(change, measured, network, data, tmp_path):
    shutil.copytree(measured, tmp_path, dirs_exist_ok=True)
    results, path = area_file(tmp_path), tmp_path / "distances.jsonl"
    key, record = next(iter(kept_records(path).items()))
    lines = path.read_text().splitlines()
    damaged = [line.replace(json.dumps(record), json.dumps(record | change)) for line in lines]
    path.write_text("".join(line + "\n" for line in damaged))
    assert damaged != lines
    measure_areas(network, data, N, WEAK, tmp_path)
    assert kept_records(path)[key] == record
    assert area_file(tmp_path) == results


def test_an_older_file_that_is_none_is_refused_in_one_line(network, data, tmp_path):
    (tmp_path / "distances.json").write_text('{"format": 1, "measured": {"attack": {"3": "x"}}}')
    with pytest.raises(UserError, match="expected results of an earlier release in"):
        measure_areas(network, data, 2, WEAK, tmp_path)


def test_own_images_are_explained_towards_the_networks_classes(network, data, tmp_path):
    own = [OwnImage(tmp_path / "photo.png", data.images[0], "")]
    settings = EXPLANATION.replace(steps=2)
    write_explanations(network, own_images(network.classifier, own), settings, tmp_path / "own", False, False)
    results = json.loads((tmp_path / "own" / "explanations.json").read_text())
    assert results["class_names"] == ["class_0", "class_1", "class_2"]
    (entry,) = results["images"]
    assert len(entry["confidences"]) == K
    assert {path.name.partition("_was")[0] for path in (tmp_path / "own" / entry["folder"]).iterdir()} >= {
        "0_class_0",
        "1_class_1",
        "2_class_2",
    }
    for count in (1, 2):
        # The second call goes on from the first.
        write_explanations(network, given_images(data, range(count)), settings, tmp_path / "set", False, False)
    results = json.loads((tmp_path / "set" / "explanations.json").read_text())
    assert results["class_names"] == ["cat", "dog", "fish"]


def test_an_ensemble_of_ones_own_is_reported_under_its_own_name(network, data, tmp_path):
    """What its parts are called counts nowhere, and all that they were run with is there to be read."""
    fab = FAB(eps=8.0, norm="L2", steps=3)
    attack = SmallestSuccess(title="two", attacks=(fab, fab.with_settings(steps=4)))
    measured = RobustAccuracy(network, data, N, "mine:TWO", (attack,), 0, tmp_path)
    text = measure(measured).text
    results = json.loads((tmp_path / "robustness.json").read_text())
    assert set(results["broken_by"]) == {"two", None}
    (entry,) = results["attacks"]
    assert (entry["name"], entry["broken"]) == ("two", N - 1)
    assert entry["seconds"] > 0
    assert results["robust_accuracy"] == 0 < results["accuracy"] == (N - 1) / N
    assert all(measured.is_valid(key, record) for key, record in kept_records(tmp_path / "images.jsonl").items())
    assert results["settings"]["attack_settings"]["two"]["2.steps"] == 4
    assert "two" in text


def test_network_and_data_that_do_not_fit_are_refused_before_any_work(network, data, tmp_path):
    cifar10 = dataclasses.replace(data, class_names=CIFAR10_CLASSES)
    ten = ResolvedNetwork(random_classifier(), Provenance(name="ten"), tmp_path)
    output = tmp_path / "output"
    settings = EXPLANATION.replace(steps=2)
    square = Square(eps=0.5, norm="L2")
    calls = [
        lambda: Evaluation(network, cifar10, 1),
        lambda: RobustnessAreas(network, cifar10, 1, Published(), output),
        lambda: RobustAccuracy(network, cifar10, 1, "square", (square,), 0, output),
        lambda: write_explanations(network, given_images(cifar10, [0]), settings, output, False, False),
    ]
    for call in calls:
        with pytest.raises(UserError, match=r"expected a network for the data's 10 classes .* got one of 3"):
            call()
    with pytest.raises(UserError, match=r"expected a network for the data's 3 classes .* got one of 10"):
        write_explanations(network, given_images(data, [0]), settings, output, False, False, beside=ten)
    assert not output.exists()
