"""A trained workdir is a network to every other command."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
from processes import succeed

ROOT = Path(__file__).parents[1]
# The benchmarks are no part of what is installed.
sys.path.insert(0, str(ROOT))

from advx_jax.errors import UserError
from benchmarks.ship_network import manifest_entry


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workdir")

    def run(command, *flags):
        return succeed(folder, command, *flags), folder

    # From a folder without configs/, so that the installed ones are found.
    out, _ = run(
        "train",
        "--config=configs/smoke.py",
        "--workdir=run",
        "--config.epochs=1",
        "--config.architecture.stage_lengths=(1,1)",
        "--config.architecture.stage_widths=(4,6)",
        "--config.keeping.ara_images=2",
    )
    assert "attack (misclassified)" in out
    return run


def test_what_a_run_leaves(call):
    _, folder = call("evaluate", "--help")
    names = {path.name for path in (folder / "run").iterdir()}
    assert names == {
        "ara",
        "checkpoints",
        "config.json",
        "curves.png",
        "metrics.jsonl",
        "network.safetensors",
        "tensorboard",
    }
    assert (folder / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((folder / "run" / "tensorboard").iterdir())
    config = json.loads((folder / "run" / "config.json").read_text())["config"]
    assert config["epochs"] == 1
    assert config["architecture"]["stage_widths"] == [4, 6]


def test_evaluate(call):
    out, _ = call("evaluate", "--model=run", "--data=sample")
    assert "tiny-smoke on 256 test images" in out


@pytest.mark.slow
def test_explain_and_ara(call):
    few = ("--model=run", "--data=sample", "--n_images=1", "--steps=3")
    _, folder = call("explain", *few)
    assert (folder / "output" / "index.html").exists()
    call("ara", *few)
    assert (folder / "ara" / "tiny-smoke" / "ara.json").exists()


@pytest.mark.slow
def test_a_finished_run_measures_nothing_again(call):
    _, folder = call("evaluate", "--help")
    kept = folder / "run" / "ara" / "distances.jsonl"
    before = kept.read_bytes()
    out, _ = call("train", "--workdir=run")
    assert "attack (misclassified)" in out
    assert kept.read_bytes() == before


def test_back_to_pytorch(call):
    torch = pytest.importorskip("torch")
    _, folder = call("convert", "--to_pt", "run/network.safetensors", "--output_dir=for-pytorch")
    (file,) = (folder / "for-pytorch").iterdir()
    content = torch.load(file, weights_only=True)
    assert content["training_options"]["robust_integration"] >= 0
    assert content["training_options"]["l2_min"] is True
    # Three steps of an attack of eight passes and one of training.
    assert content["model_params"]["pipe.1.0.pre.0.num_batches_tracked"] == 27


def test_the_manifest_tells_how_a_run_came_about(call):
    _, folder = call("evaluate", "--help")
    entry = manifest_entry(folder / "run", "configs/smoke.py", "816bc3c", "everything")
    assert entry["file"] == "tiny-smoke.safetensors"
    assert entry["sha256"] == hashlib.sha256((folder / "run" / "network.safetensors").read_bytes()).hexdigest()
    assert list(entry["architecture"]["stage_lengths"]) == [1, 1]
    trained = entry["trained"]
    assert (trained["config"], trained["commit"], trained["epochs"]) == ("configs/smoke.py", "816bc3c", 1)
    assert trained["device"] in ("1 × cpu", "2 × cpu")
    assert trained["final_psi"] == 220
    assert "epochs_before" not in trained
    config = json.loads((folder / "run" / "config.json").read_text())
    shutil.copytree(folder / "run", folder / "further", ignore=shutil.ignore_patterns("checkpoints"))
    for first, before in ((str(folder / "run"), [1]), ("resnet20x2-all", [25, 28])):
        further = {**config, "config": {**config["config"], "init_from": first}}
        (folder / "further" / "config.json").write_text(json.dumps(further))
        trained = manifest_entry(folder / "further", "configs/smoke.py", "816bc3c", "everything")["trained"]
        assert trained["epochs_before"] == before
    config["config"]["epochs"] = 2
    (folder / "unfinished").mkdir()
    for name in ("metrics.jsonl", "network.safetensors"):
        shutil.copy(folder / "run" / name, folder / "unfinished")
    (folder / "unfinished" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"expected 2 epochs in .*, got 1"):
        manifest_entry(folder / "unfinished", "configs/smoke.py", "816bc3c", "everything")
