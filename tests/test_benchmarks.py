"""Benchmarks do the same work with both sides, and count it right."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

ROOT = Path(__file__).parents[1]
# The benchmarks are no part of what is installed.
sys.path.insert(0, str(ROOT))

from compiling import QUICK_FLAGS
from PIL import Image
from recipes import tiny_recipe
from torch.utils.flop_counter import FlopCounterMode

from advx_jax.attacks.named import MINIMUM_NORM
from advx_jax.errors import UserError
from advx_jax.networks.registry import first_choice
from benchmarks.ara_by_cost import NETWORKS, draw
from benchmarks.scale_costs import Job, Measured, seconds_an_image, seconds_on
from benchmarks.training.comparison import compare_steps
from benchmarks.training.flops import flops_per_image
from benchmarks.training.scaling import scale
from benchmarks.training.with_jax import JaxTraining, Outcome, random_images
from benchmarks.training.with_torch import TorchTraining

# Seen: 4e-7, the rounding of float32.
OUTCOME_TOLERANCE = 1e-5
# The command with a tiny network; on one core, for the reason that test_reference gives.
TINY_COMMAND = """
import os, runpy
from advx_jax.configs import published

make = published.published

def tiny(name):
    config = make(name)
    config.architecture.update(stage_lengths=(1, 1), stage_widths=(4, 6))
    return config

published.published = tiny
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
runpy.run_module("benchmarks.train_step", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    # For the reason that test_reference gives.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def surroundings(tmp_path, monkeypatch):
    """What other processes find: a CPU, folders of their own, and a fast way to compile."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("ADVX_CACHE", str(tmp_path))
    monkeypatch.setenv("ADVX_BENCHMARK_RESULTS", str(tmp_path))
    monkeypatch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} {QUICK_FLAGS}")


# Between them they have every ingredient.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["adv_train", "all"])
def test_both_do_the_same_work(name):
    found = compare_steps(tiny_recipe(name), rounds=3, n_steps=2)
    assert found.first_jax == pytest.approx(found.first_torch, rel=OUTCOME_TOLERANCE)
    assert len(found.rounds) == 3
    assert found.torch > 0
    assert found.jax > 0
    ratios = sorted(jax / torch for torch, jax in found.rounds)
    assert found.median_ratio == ratios[1]
    assert found.best_ratio == found.jax / found.torch


def test_other_work_is_refused(monkeypatch):
    monkeypatch.setattr(JaxTraining, "run", lambda training, n_steps: Outcome(2.3, 0.5))
    with pytest.raises(RuntimeError, match="not the same work: class_loss is"):
        compare_steps(tiny_recipe("standard"), rounds=1)


# PyTorch's counter does not take the double gradient of the others.
@pytest.mark.parametrize("name", ["standard", "adv_train"])
def test_operations_counted_by_hand_are_those_that_pytorch_counts(name):
    recipe = tiny_recipe(name)
    images = random_images(recipe)
    with_jax = JaxTraining(recipe, images)
    with_torch = TorchTraining(recipe, images, with_jax.start, with_jax.plan, "cpu")
    with FlopCounterMode(display=False) as counter:
        with_torch.run(1)
    assert counter.get_total_flops() == recipe.batch_size * flops_per_image(recipe)


@pytest.mark.slow
@pytest.mark.usefixtures("surroundings")
def test_devices_take_turns():
    one, two = scale(tiny_recipe("standard"), (1, 2), rounds=3, n_steps=1)
    assert (one.n_devices, two.n_devices) == (1, 2)
    assert len(one.rounds) == len(two.rounds) == 3
    assert one.speed_up == 1
    assert two.speed_up == sorted(first / second for first, second in zip(one.rounds, two.rounds, strict=True))[1]


@pytest.mark.usefixtures("surroundings")
def test_batch_that_devices_cannot_share_is_refused():
    with pytest.raises(UserError, match="expected a multiple of the 5 devices"):
        scale(tiny_recipe("standard"), (5,), rounds=1)


def call(*flags):
    command = [sys.executable, "-W", "error", "-c", TINY_COMMAND, *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.usefixtures("surroundings")
def test_command(tmp_path):
    done = call("--recipes=standard", "--batch_size=2", "--rounds=1", "--peak_tflops=0.1")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "train_step.json").read_text())["rows"]
    assert row["recipe"] == "standard"
    assert row["best_ratio"] == row["jax"]["step_seconds"] / row["torch"]["step_seconds"]
    assert row["jax"]["images_per_second"] * row["jax"]["ms_per_image"] == pytest.approx(1000)
    share = row["gflop_per_image"] * row["jax"]["images_per_second"] / 100
    assert row["jax"]["share_of_peak"] == pytest.approx(share)
    assert f"{row['jax']['ms_per_image']:.3f}" in done.stdout


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("--recipes=robsut", "expected --recipes among standard, adv_train, robust, all, got robsut"),
        ("--devices=1,two", "expected numbers of devices, as in --devices=1,2, got two"),
    ],
)
def test_bad_flags_are_refused(flag, reason):
    done = call(flag)
    assert (done.returncode, done.stderr.strip()) == (1, f"error: {reason}")


def test_distances_by_cost_are_drawn_also_where_some_are_missing(tmp_path):
    rows = [
        {"network": network, "attack": name, "gradients": count, "mean_distance": None if count == 25 else 1 / count}
        for network in NETWORKS
        for name in MINIMUM_NORM
        for count in (25, 50, 100)
    ]
    draw(tmp_path / "picture.png", rows, n_images=32)
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width > 800


@pytest.mark.slow
@pytest.mark.usefixtures("surroundings")
def test_attacks_of_peers_are_timed_by_what_they_evaluate(tmp_path, monkeypatch):
    pytest.importorskip("foolbox", reason="needs the peers that the README tells how to install")
    monkeypatch.setenv("ADVX_BENCHMARK_MODEL", first_choice().ordinary)
    command = [sys.executable, "-m", "benchmarks.peers", "--steps=3", "--rounds=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = {(row["peer"], row["attack"]): row for row in json.loads((tmp_path / "peers.json").read_text())["rows"]}
    # Attacks that climb a loss look at their starting point too, foolbox's PGD does not.
    assert rows["foolbox, PyTorch", "PGD"]["gradients"] == {"theirs": 3, "ours": 4}
    for row in rows.values():
        assert row["wall_ratio"] == row["ours"]["wall"] / row["theirs"]["wall"] > 0


def test_devices_divide_images_evenly():
    measured = Measured(forward=1.0, gradient=3.0, decoding=0.1, compiling=9.0, row_bytes=2**30)
    # Ten gradients and five passes more, on what is twice as fast.
    assert seconds_an_image(Job("attack", forward=15.0, backward=10.0), measured, speed=2.0) == (10 * 3 + 5) / 2
    assert [seconds_on(n, 10, each=2.0) for n in (1, 4, 64)] == [20, 6, 2]
