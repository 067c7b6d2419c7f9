"""The robustness command as a person runs it, on a tiny network and the shipped sample."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_classifier
from PIL import Image
from processes import fail, interrupt, start, succeed
from stores import change_record, kept_records

from advx_jax.attacks import PGD, AutoAttack
from advx_jax.data.sample import load_sample
from advx_jax.networks.classifier import Provenance
from advx_jax.networks.files import save_network
from advx_jax.reports.robust_accuracy_warnings import warnings

# Far: of the first 60 images the random network classifies only a few correctly.
EPS = 3.0
# Pixels of x + δ round to float32.
ROUNDING = 1e-5

STANDARD = AutoAttack(eps=0.5, norm="L2").members(None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("robustness")
    save_network(path / "tiny.safetensors", random_classifier(), Provenance(name="tiny"))
    return path


def read(path):
    return json.loads(path.read_text())


def test_help_shows_examples_and_flags(folder):
    out = succeed(folder, "robustness", "--help")
    assert "python -m advx_jax.robustness --model=resnet44-all" in out
    assert "--norm" in out


def test_robustness_measures_the_first_images_and_goes_on_from_what_is_there(folder):
    flags = ("--model=tiny.safetensors", "--attack=pgd", "--steps=3", f"--eps={EPS}", "--output=pgd")
    out = succeed(folder, "robustness", *flags, "--n_images=60", "--pictures")
    first = read(folder / "pgd" / "robustness.json")
    assert first["format"] == 1
    assert first["settings"]["n_images"] == 60
    assert first["eps_rms"] == pytest.approx(EPS / 3072**0.5)
    (attack,) = first["attacks"]
    assert attack["name"] == "pgd"
    assert attack["broken"] == sum(name == "pgd" for name in first["broken_by"]) > 0
    assert first["robust_accuracy"] == pytest.approx(first["accuracy"] - attack["broken"] / 60)
    assert sum(first["stands"]) == round(first["robust_accuracy"] * 60)
    assert "the first 60 test images" in out
    assert f"RMS = {EPS / 3072**0.5:.5f}" in out
    assert f"{first['robust_accuracy']:.4f}" in out

    sample = load_sample()
    broken = [index for index, name in enumerate(first["broken_by"]) if name]
    for index in broken:
        adversarial = np.load(folder / "pgd" / "broken" / f"{index}.npy")
        image = sample.images[index].astype(np.float32) / np.float32(255)
        distance = np.sqrt(np.square(adversarial - image).sum())
        assert distance == pytest.approx(first["distances"][index], abs=ROUNDING)
        assert distance <= EPS + ROUNDING
        assert 0 <= adversarial.min() <= adversarial.max() <= 1
    pictures = list((folder / "pgd" / "pictures").iterdir())
    assert sorted(int(path.name.split("-")[0]) for path in pictures) == broken
    with Image.open(pictures[0]) as picture:
        assert picture.size == (3 * 32 + 2 * 2, 32)

    # Work that is there is not done again: what is changed in the file stays so.
    path = folder / "pgd" / "images.jsonl"
    changed = kept_records(path)["0"] | {"correct": True, "runs": 1}
    changed.pop("broken_by", None)
    change_record(path, "0", changed)
    succeed(folder, "robustness", *flags, "--n_images=64")
    second = read(folder / "pgd" / "robustness.json")
    assert second["stands"][0]
    assert second["stands"][1:60] == first["stands"][1:]
    assert len(second["stands"]) == 64

    message = fail(folder, "robustness", *flags, "--n_images=60", "--norm=Linf", "--eps=0.5")
    assert "norm=L2 there, Linf now" in message
    assert "--overwrite" in message
    succeed(folder, "robustness", *flags[:3], "--eps=1e-6", "--output=pgd", "--n_images=8", "--overwrite")
    assert not list((folder / "pgd" / "broken").iterdir())
    assert not list((folder / "pgd" / "pictures").iterdir())


def test_autoattack_runs_its_attacks_one_after_another(folder):
    flags = ("--model=tiny.safetensors", "--norm=inf", "--eps=0.5/255", "--steps=2", "--n_images=16")
    out = succeed(folder, "robustness", *flags)
    results = read(folder / "robustness" / "tiny-Linf-0.00196078" / "robustness.json")
    assert results["settings"]["eps"] == 0.5 / 255
    assert [attack["name"] for attack in results["attacks"]] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    left = [results["accuracy"], *(attack["accuracy_left"] for attack in results["attacks"])]
    assert left == sorted(left, reverse=True)
    assert left[-1] == results["robust_accuracy"]
    assert "L∞ 0.5/255 (RMS ≤ 0.00196)" in out


@pytest.mark.slow
def test_images_broken_elsewhere_are_looked_at_first(folder):
    # In a larger ball, so that they have to be brought into this one.
    flags = ("--model=tiny.safetensors", "--attack=pgd", "--steps=3", "--n_images=60")
    succeed(folder, "robustness", *flags, f"--eps={1.2 * EPS}", "--output=elsewhere")
    start = (*flags, f"--eps={EPS}", "--start_from=elsewhere", "--output=here")
    succeed(folder, "robustness", *start)
    results, there = (read(folder / name / "robustness.json") for name in ("here", "elsewhere"))
    assert [attack["name"] for attack in results["attacks"]] == ["transfer", "pgd"]
    images = load_sample().images[:60].astype(np.float32) / np.float32(255)
    network = random_classifier()
    transferred = [index for index, name in enumerate(results["broken_by"]) if name == "transfer"]
    assert len(transferred) == results["attacks"][0]["broken"] > 0
    for index in transferred:
        assert there["broken_by"][index]
        found = np.load(folder / "here" / "broken" / f"{index}.npy")
        assert np.sqrt(np.square(found - images[index]).sum()) == pytest.approx(
            results["distances"][index], abs=ROUNDING
        )
        assert results["distances"][index] <= EPS + ROUNDING
        assert network(jnp.asarray(found[None])).argmax() == results["predicted"][index] != load_sample().labels[index]
    message = fail(folder, "robustness", *start[:-2], "--start_from=nowhere", "--output=new")
    assert "cannot read the results" in message
    message = fail(folder, "robustness", *start[:-2], "--start_from=elsewhere", "--output=./elsewhere", "--overwrite")
    assert "expected other results than those in elsewhere to start from" in message
    assert read(folder / "elsewhere" / "robustness.json") == there


def runs_made(path):
    """Of each image, where they are written down."""
    return {index: record["runs"] for index, record in kept_records(path).items()}


@pytest.mark.slow
def test_interrupted_robustness_keeps_what_it_has_and_goes_on(folder):
    # So near that nothing is broken, and all targets have their turn.
    flags = ("--model=tiny.safetensors", "--attack=apgd-t", "--steps=50", "--eps=1e-7", "--output=cut")
    path = folder / "cut" / "images.jsonl"
    process = start(folder, "robustness", *flags, "--n_images=100")
    interrupt(process, lambda: sum(runs_made(path).values()))
    kept = runs_made(path)
    assert 0 < max(kept.values()) < 9
    assert not (path.parent / "robustness.json").exists()

    # Marked as done, work is not done again.
    done = next(index for index, runs in kept.items() if runs)
    changed = {"runs": 9, "broken_by": "apgd-t", "predicted": 0, "distance": 0.0}
    (path.parent / "broken").mkdir()
    np.save(path.parent / "broken" / f"{done}.npy", np.zeros((32, 32, 3), np.float32))
    change_record(path, done, kept_records(path)[done] | changed)
    succeed(folder, "robustness", *flags, "--n_images=100")
    results = read(path.parent / "robustness.json")
    assert [index for index, name in enumerate(results["broken_by"]) if name] == [int(done)]
    assert all(runs == 9 for index, runs in runs_made(path).items() if results["stands"][int(index)])


@pytest.mark.slow
def test_restarts_go_on_with_what_stands(folder):
    flags = ("--model=tiny.safetensors", "--attack=pgd", "--steps=1", "--eps=0.5", "--n_images=40")
    broken = []
    for restarts in (1, 3):
        output = folder / f"restarts-{restarts}"
        succeed(folder, "robustness", *flags, f"--restarts={restarts}", f"--output={output.name}")
        results = read(output / "robustness.json")
        assert results["settings"]["restarts"] == {"pgd": restarts}
        runs = [count for index, count in runs_made(output / "images.jsonl").items() if results["stands"][int(index)]]
        assert set(runs) == {restarts}
        broken.append({index for index, name in enumerate(results["broken_by"]) if name})
    assert broken[0] <= broken[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected --eps, for instance --norm=L2 --eps=0.5 or --norm=Linf --eps=8/255, got none"),
        (["--eps=-1"], "flag --eps=-1: expected a number"),
        (["--eps=8", "--norm=linf"], "got 8; did you mean --eps=8/255?"),
        (["--eps=56"], "expected --eps below 55.43, which as L2 spans all of [0,1]"),
        (["--eps=1", "--steps=0"], "flag --steps=0: expected a whole number of at least 1, got 0"),
        (["--eps=1", "--restarts=0"], "flag --restarts=0: expected a whole number of at least 1, got 0"),
        (["--eps=1", "--attack=fab-t", "--restarts=2"], "expected --restarts=1 for fab-t"),
        (["--eps=1", "--norm=L0"], "flag --norm=L0: expected L1, L2 or Linf as the norm, got 'L0'"),
        (["--eps=1", "--norm=L1", "--attack=pgd"], "expected L2 or Linf as the norm, got 'L1'"),
        (["--eps=3072", "--norm=L1", "--attack=apgd-ce"], "expected --eps below 3072, which as L1 spans all of [0,1]"),
        (["--eps=1", "--attack=fgsm"], "expected an attack (autoattack, pgd,"),
        (["--eps=1", "--n_images=257"], "expected --n_images from 1 to 256, got 257"),
        (["--eps=1", "--seed=-1"], "--seed"),
    ],
)
def test_bad_input_gives_one_clear_line(arguments, message, folder):
    assert message in fail(folder, "robustness", "--model=tiny.safetensors", *arguments)


def record(**changes):
    plain = {"correct": True, "finite": True, "flat": False, "random": False, "normalised": False, "runs": 1}
    return plain | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"finite": False}, "1 of 3 images have infinite or NaN logits"),
        ({"random": True}, "gave different logits for 1 of 3 images"),
        ({"flat": True}, "exactly 0 for 1 of 3 images"),
        ({"not_finite_under": "apgd-ce"}, "1 of 3 images met infinite or NaN logits under attack"),
        ({"broken_by": "square"}, "Square, which uses no gradients, broke 1 of 3"),
    ],
)
def test_each_warning_is_one_line_that_explains(changes, message):
    (line,) = warnings([record(), record(), record(**changes)], STANDARD, 10)
    assert message in line
    assert "\n" not in line


def test_warnings_of_the_whole_network():
    assert warnings([record()], STANDARD, 10) == []
    (line,) = warnings([record(normalised=True)] * 2, (PGD(eps=0.5, norm="L2"),), 10)
    assert "like a softmax's" in line
    (line,) = warnings([record()], STANDARD, 5)
    assert "want 9 other classes and there are 4" in line
