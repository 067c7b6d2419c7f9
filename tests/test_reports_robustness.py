"""Networks of other classes than CIFAR-10's, and distances that were not found, in what the commands write."""

import dataclasses
import json

import numpy as np
import pytest
from networks import TINY, random_classifier

from advx_jax.analysis.accuracy import predict
from advx_jax.analysis.robustness_area import PUBLISHED_ATTACK, robustness_curve
from advx_jax.attacks import AttackSettings
from advx_jax.attacks.autoattack import STAGES
from advx_jax.attacks.minimum_norm import Published
from advx_jax.data.image_set import CIFAR10_CLASSES, ImageSet, unit_images
from advx_jax.data.own_images import OwnImage
from advx_jax.errors import UserError
from advx_jax.networks.classifier import Provenance
from advx_jax.networks.registry import ResolvedNetwork
from advx_jax.reports.accuracy_report import report_accuracy
from advx_jax.reports.explanation_report import given_images, own_images, report_explanations
from advx_jax.reports.fixed_budget_report import report_fixed_budget
from advx_jax.reports.fixed_budget_run import Plan
from advx_jax.reports.robustness_report import report_robustness

N, K = 6, 3
STRONG = Published(AttackSettings(eps=5.0, steps=12, momentum=0.9))
WEAK = Published(AttackSettings(eps=1e-6, steps=2))


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    classifier = random_classifier(architecture=dataclasses.replace(TINY, n_classes=K))
    return ResolvedNetwork(classifier, Provenance(name="three"), tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def data(network):
    """Images of which the network takes all but the first for what they are."""
    images = np.random.default_rng(0).integers(0, 256, (N, 32, 32, 3), np.uint8)
    labels = predict(network.classifier, unit_images(images), np.zeros(N, np.int32)).classes.astype(np.int64)
    labels[0] = (labels[0] + 1) % K
    return ImageSet(images, labels, ("cat", "dog", "fish"), "a test")


def area_files(folder):
    return [json.loads((folder / name).read_text()) for name in ("ara.json", "distances.json")]


def test_the_area_is_that_of_the_networks_number_of_classes(network, data, tmp_path):
    report_robustness(network, data, N, STRONG, tmp_path, overwrite=False)
    results, _ = area_files(tmp_path)
    for kind in ("attack", "btr"):
        found = results[kind]
        assert found["n_classes"] == K
        assert all(found["crossed"])
        assert found["ara"] == found["ara_at_least"] == robustness_curve(found["distances"], K).area
        assert found["ara"] != robustness_curve(found["distances"], 10).area
    assert results["attack"]["n_misclassified_at_start"] == 1


def test_what_was_never_crossed_is_no_distance_0(network, data, tmp_path):
    text = report_robustness(network, data, N, WEAK, tmp_path, overwrite=False)
    assert "≥ 0.0000" in text
    assert "more than a share of 1/K of the images was never crossed" in text
    results, kept = area_files(tmp_path)
    found = results["attack"]
    assert found["ara"] is None
    assert found["ara_at_least"] == 0
    assert (found["n_never_crossed"], found["n_misclassified_at_start"], found["n_not_finite"]) == (N - 1, 1, 0)
    assert [d for d, crossed in zip(found["distances"], found["crossed"], strict=True) if not crossed] == [None] * 5
    assert all(found["finite"])
    assert (tmp_path / "ara.png").stat().st_size

    # What earlier releases wrote in its place is read as the same.
    for row in kept["measured"]["attack"].values():
        row[0] = 0.0 if row[0] is None else row[0]
    (tmp_path / "distances.json").write_text(json.dumps(kept))
    assert report_robustness(network, data, N, WEAK, tmp_path, overwrite=False) == text
    again, _ = area_files(tmp_path)
    assert again["attack"] == found


@pytest.mark.parametrize(
    "row", [[None, 2, True, True], [-1.0, 2, True, True], [0.1, 2, 1, True], [0.1, 2, True], "x", [[], 2, False, True]]
)
def test_rows_that_are_none_are_refused_in_one_line(row, network, data, tmp_path):
    report_robustness(network, data, 2, WEAK, tmp_path, overwrite=False)
    _, kept = area_files(tmp_path)
    next(iter(kept["measured"].values())).update({next(iter(kept["measured"]["attack"])): row})
    (tmp_path / "distances.json").write_text(json.dumps(kept))
    with pytest.raises(UserError, match="expected distances, first_ok, crossed, finite of image"):
        report_robustness(network, data, 2, WEAK, tmp_path, overwrite=False)


def test_own_images_are_explained_towards_the_networks_classes(network, data, tmp_path):
    own = [OwnImage(tmp_path / "photo.png", data.images[0], "")]
    settings = AttackSettings(eps=0.1, steps=2)
    report_explanations(network, own_images(network.classifier, own), settings, tmp_path / "own", False, False)
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
        report_explanations(network, given_images(data, range(count)), settings, tmp_path / "set", False, False)
    results = json.loads((tmp_path / "set" / "explanations.json").read_text())
    assert results["class_names"] == ["cat", "dog", "fish"]


def test_network_and_data_that_do_not_fit_are_refused_before_any_work(network, data, tmp_path):
    cifar10 = dataclasses.replace(data, class_names=CIFAR10_CLASSES)
    ten = ResolvedNetwork(random_classifier(), Provenance(name="ten"), tmp_path)
    output = tmp_path / "output"
    settings = AttackSettings(eps=0.1, steps=2)
    plan = Plan("square", (STAGES["square"],), 0.5, "L2", 0, True, 1)
    calls = [
        lambda: report_accuracy(network, cifar10, 1, output / "accuracy.json"),
        lambda: report_robustness(network, cifar10, 1, PUBLISHED_ATTACK, output, False),
        lambda: report_fixed_budget(network, cifar10, plan, output, False, False),
        lambda: report_explanations(network, given_images(cifar10, [0]), settings, output, False, False),
    ]
    for call in calls:
        with pytest.raises(UserError, match=r"expected a network for the data's 10 classes .* got one of 3"):
            call()
    with pytest.raises(UserError, match=r"expected a network for the data's 3 classes .* got one of 10"):
        report_explanations(network, given_images(data, [0]), settings, output, False, False, beside=ten)
    assert not output.exists()
