"""Attacks scored against each other: one run, what is kept of it, and what is read back."""

import json

import numpy as np
import pytest
from networks import random_classifier
from processes import succeed
from stores import kept_records

from advx_jax.analysis.accuracy import predict
from advx_jax.analysis.robustness_area import boundary_distances
from advx_jax.attacks import DDN, FMN
from advx_jax.attacks.named import minimum_norm_attack
from advx_jax.attacks.passes import total_passes, within_budget
from advx_jax.data.image_set import CIFAR10_CLASSES, ImageSet, unit_images
from advx_jax.errors import UserError
from advx_jax.networks.classifier import Provenance
from advx_jax.networks.files import save_network
from advx_jax.networks.registry import ResolvedNetwork
from advx_jax.reports.attackbench import across
from advx_jax.runs import attackbench
from advx_jax.runs.attackbench import AttackBench, Contestant
from advx_jax.runs.measurement import measure

N, BUDGET, SHAPE = 6, 25, (32, 32, 3)
CONTESTANTS = [Contestant("ddn", DDN(), BUDGET), Contestant("fmn@15", FMN(), 15)]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return ResolvedNetwork(random_classifier(), Provenance(name="tiny"), tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def data(network):
    """Images of which the network takes all but the first for what they are."""
    images = np.random.default_rng(0).integers(0, 256, (N, *SHAPE), np.uint8)
    labels = predict(network.classifier, unit_images(images)).classes.astype(np.int64)
    labels[0] = (labels[0] + 1) % 10
    return ImageSet(images, labels, CIFAR10_CLASSES, "a test")


@pytest.fixture(scope="module")
def bench(network, data):
    def made(output, contestants=CONTESTANTS, indices=range(N), known=()):
        return AttackBench(network, data, list(indices), "L2", contestants, output, known)

    return made


@pytest.fixture(scope="module")
def finished(bench, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    text = measure(bench(folder)).text
    return folder, text, read(folder)


def read(folder):
    return json.loads((folder / "attackbench.json").read_text())


def test_results_are_those_of_the_attacks_within_their_budgets(finished, network, data):
    folder, text, results = finished
    by_name = {attack["name"]: attack for attack in results["attacks"]}
    assert [attack["passes"] for attack in results["attacks"]] == [BUDGET, 15]
    assert (by_name["ddn"]["forward"], by_name["ddn"]["backward"]) == (13, 12)
    own = boundary_distances(network.classifier, unit_images(data.images), data.labels, DDN(steps=12))
    np.testing.assert_allclose(by_name["ddn"]["distances"], own * np.sqrt(np.prod(SHAPE)), rtol=1e-5)
    envelope = np.minimum(*(attack["distances"] for attack in results["attacks"]))
    np.testing.assert_array_equal(results["envelope"]["distances"], envelope)
    assert envelope[0] == 0 < envelope[1:].min()
    assert results["accuracy"] == pytest.approx(1 - 1 / N)
    assert max(attack["local_optimality"] for attack in results["attacks"]) <= 1
    for attack in results["attacks"]:
        assert attack["looks"][-1] == attack["passes"]
        assert attack["optimality_at_looks"][-1] == attack["local_optimality"]
        assert f"{attack['local_optimality']:.4f}" in text
    assert (folder / "attackbench.png").stat().st_size


def test_another_attack_costs_only_what_is_new(finished, bench, monkeypatch):
    folder, _, before = finished
    run = []

    def counted(model, images, labels, attack, *rest):
        run.append((attack.name, len(images)))
        return distances_by_passes(model, images, labels, attack, *rest)

    distances_by_passes = attackbench.distances_by_passes
    monkeypatch.setattr(attackbench, "distances_by_passes", counted)
    measure(bench(folder))
    assert run == []
    measure(bench(folder, [*CONTESTANTS, Contestant("fmn", FMN(), 10)], range(N - 1)))
    assert run == [("fmn", N - 2)]
    after = read(folder)
    assert [attack["distances"] for attack in after["attacks"][:2]] == [
        attack["distances"][:-1] for attack in before["attacks"]
    ]
    assert len(kept_records(folder / "distances.jsonl")) == 3 * N - 1


def test_distances_found_elsewhere_take_part(finished, bench, tmp_path):
    folder, _, results = finished
    file, smaller = tmp_path / "other.json", [0.0, *(0.5 * d for d in results["envelope"]["distances"][1:])]
    other = {
        "settings": {"norm": "L2"},
        "indices": [*range(1, N), 0],
        "attacks": [{"name": "adv_lib fmn", "distances": [*smaller[1:], 0.0]}],
    }
    file.write_text(json.dumps(other))
    text = measure(bench(folder, known=[file])).text
    found = read(folder)
    assert found["envelope"]["distances"] == smaller
    assert found["elsewhere"][0]["local_optimality"] == 1
    assert all(attack["local_optimality"] < 1 for attack in found["attacks"])
    assert text.splitlines()[3].startswith("adv_lib fmn      1.0000")

    # One called like an attack that runs here counts as well.
    file.write_text(json.dumps(other | {"attacks": [other["attacks"][0] | {"name": "ddn"}]}))
    measure(bench(folder, known=[file]))
    found = read(folder)
    assert found["envelope"]["distances"] == smaller
    assert [attack["name"] for attack in found["elsewhere"]] == ["ddn (elsewhere)"]

    for change, message in [
        ({"settings": {"norm": "L1"}}, "expected distances with norm=L2 in .*, got L1"),
        ({"indices": [*range(1, N), 9]}, "expected distances of all 6 images in .*, got none of 0"),
        ({"attacks": [{"name": "x", "distances": [1.0]}]}, "1 distances of 6 images"),
        ({"attacks": [{"name": "x"}]}, "KeyError"),
        ({"indices": [[index] for index in range(N)]}, "TypeError"),
    ]:
        file.write_text(json.dumps(other | change))
        with pytest.raises(UserError, match=message):
            bench(folder, known=[file])


def test_global_optimality_is_over_networks(finished, tmp_path):
    folder, _, _ = finished
    results = read(folder)
    results["attacks"][0]["local_optimality"], results["attacks"][1]["local_optimality"] = 0.5, 1.0
    for name, norm in (("same", "L2"), ("other", "L1")):
        (tmp_path / name).mkdir()
        changed = results | {"settings": {"norm": norm, "model": "second"}}
        (tmp_path / name / "attackbench.json").write_text(json.dumps(changed))
    lines = across([tmp_path / "same", tmp_path / "same"]).splitlines()
    assert lines[0] == "L2"
    assert lines[1].split() == ["attack", "global", "optimality", "second", "second"]
    assert lines[2].split() == ["fmn@15", "1.0000", "1.0000", "1.0000"]
    assert lines[3].split() == ["ddn", "0.5000", "0.5000", "0.5000"]
    with pytest.raises(UserError, match="expected results in one norm, got L2, L1"):
        across([tmp_path / "same", tmp_path / "other"])


@pytest.mark.parametrize("budget", [60, 99, 100])
@pytest.mark.parametrize("name", ["fmn", "best"])
def test_as_many_steps_as_a_budget_allows(name, budget):
    attack = within_budget(minimum_norm_attack(name), budget, 10, SHAPE)
    spent = total_passes(attack, 10, SHAPE).total
    more = total_passes(attack.with_settings(steps=attack.n_steps + 1), 10, SHAPE).total
    assert spent <= budget < more


def test_a_budget_too_small_for_an_attack_is_refused():
    with pytest.raises(UserError, match="expected a budget of at least 6 for best, got 5"):
        within_budget(minimum_norm_attack("best"), 5, 10, SHAPE)


def test_two_forms_of_one_attack_need_two_names(bench, tmp_path):
    with pytest.raises(UserError, match="expected attacks of different names, got ddn, ddn"):
        bench(tmp_path, [CONTESTANTS[0], Contestant("ddn", FMN(), BUDGET)])


@pytest.mark.slow
def test_the_command_measures_chosen_images(tmp_path):
    save_network(tmp_path / "tiny.safetensors", random_classifier(), Provenance(name="tiny"))
    flags = ("--model=tiny.safetensors", "--data=sample", "--indices=3,5", "--budget=9", "--attacks=fmn,ddn@7")
    text = succeed(tmp_path, "attackbench", *flags)
    assert "tiny, L2: 2 test images" in text
    assert read(tmp_path / "attackbench" / "tiny-L2")["indices"] == [3, 5]
