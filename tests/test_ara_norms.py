"""Areas in other norms than the paper's, within a budget of gradients, and side by side."""

import json
import math

import numpy as np
import pytest
from networks import random_classifier
from processes import fail, succeed

from advx_jax.analysis.accuracy import predict
from advx_jax.analysis.robustness_area import robustness_curve
from advx_jax.attacks import FMN
from advx_jax.data.image_set import CIFAR10_CLASSES, ImageSet, unit_images
from advx_jax.errors import UserError
from advx_jax.networks.classifier import Provenance
from advx_jax.networks.files import save_network
from advx_jax.networks.registry import ResolvedNetwork
from advx_jax.reports.ara_compare import COMPARISON_FILE, compare_areas
from advx_jax.runs.ara import RobustnessAreas
from advx_jax.runs.measurement import measure

N, SHAPE = 6, (32, 32, 3)
L2 = FMN(steps=8)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Results of one attack as RMS, in L2, and of another in L∞."""
    folder = tmp_path_factory.mktemp("norms")
    network = ResolvedNetwork(random_classifier(), Provenance(name="tiny"), folder)
    images = np.random.default_rng(0).integers(0, 256, (N, *SHAPE), np.uint8)
    labels = predict(network.classifier, unit_images(images)).classes.astype(np.int64)
    data = ImageSet(images, labels, CIFAR10_CLASSES, "a test")
    runs = {"rms": (L2, None), "L2": (L2, "L2"), "Linf": (FMN(steps=8, norm="Linf"), "Linf")}
    texts = {
        name: measure(RobustnessAreas(network, data, N, attack, folder / name, norm)).text
        for name, (attack, norm) in runs.items()
    }
    return folder, texts


def read(folder, name):
    return json.loads((folder / name / "ara.json").read_text())


def test_distances_are_in_the_norm_that_is_asked_for(measured):
    folder, texts = measured
    rms, l2, linf = (read(folder, name) for name in ("rms", "L2", "Linf"))
    for kind in ("attack", "btr"):
        np.testing.assert_allclose(
            np.array(l2[kind]["distances"], float), math.sqrt(3072) * np.array(rms[kind]["distances"], float), rtol=1e-5
        )
        known = [math.inf if distance is None else distance for distance in l2[kind]["distances"]]
        assert l2[kind]["ara_at_least"] == robustness_curve(known, 10).at_least > 0
    assert 0 < linf["attack"]["ara_at_least"] < l2["attack"]["ara_at_least"] / 10
    assert (l2["unit"], linf["unit"]) == ("L2 norm on the [0, 1] scale", "L∞ norm on the [0, 1] scale")
    assert (l2["settings"]["distance_norm"], linf["settings"]["distance_norm"]) == ("L2", "Linf")
    assert "ARA, L2 " in texts["L2"]
    assert "distances and areas: L∞ norm on the [0, 1] scale" in texts["Linf"]


def test_without_a_norm_all_is_as_it_was(measured):
    folder, texts = measured
    results = read(folder, "rms")
    assert "unit" not in results
    assert "distance_norm" not in results["settings"]
    assert "ARA " in texts["rms"]
    assert "distances and areas:" not in texts["rms"]


def test_finished_results_are_drawn_together(measured, tmp_path):
    folder, _ = measured
    lines = compare_areas([folder / name for name in ("rms", "L2", "Linf")], tmp_path).splitlines()
    assert [line.split()[:3] for line in lines[1:4]] == [["tiny,", "fmn", unit] for unit in ("RMS", "L2", "Linf")]
    assert f"{read(folder, 'rms')['attack']['ara_at_least']:.4f}" in lines[1]
    assert f"{read(folder, 'Linf')['btr']['ara_at_least']:.4g}" in lines[3]
    assert (tmp_path / COMPARISON_FILE).stat().st_size
    (tmp_path / "ara.json").write_text('{"settings": {"model": "x"}}')
    with pytest.raises(UserError, match=r"expected results of ara in .*, got others"):
        compare_areas([tmp_path], tmp_path)
    results = read(folder, "L2")
    results["settings"]["distance_norm"] = "L7"
    (tmp_path / "ara.json").write_text(json.dumps(results))
    with pytest.raises(UserError, match="distances in L7"):
        compare_areas([tmp_path], tmp_path)


@pytest.mark.slow
def test_the_command_takes_norm_and_budget(tmp_path):
    save_network(tmp_path / "tiny.safetensors", random_classifier(), Provenance(name="tiny"))
    flags = ("--model=tiny.safetensors", "--data=sample", "--n_images=2", "--norm=linf")
    text = succeed(tmp_path, "ara", *flags, "--attack=fmn", "--budget=7")
    results = read(tmp_path / "ara", "tiny-fmn-Linf")
    assert results["settings"]["steps"] == results["gradient_evaluations"] == 7
    assert "at most 7 gradient evaluations" in text
    assert fail(tmp_path, "ara", *flags) == "error: expected L2 as the norm of published, got 'Linf'"
    # An attack that does not know L2 tells the norm that it has.
    succeed(tmp_path, "ara", *flags[:-1], "--attack=sigma-zero", "--steps=5")
    assert read(tmp_path / "ara", "tiny-sigma-zero-L0")["unit"] == "number of values changed"
