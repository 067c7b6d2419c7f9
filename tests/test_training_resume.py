"""A run that is killed or stopped goes on to the same bits as one that is not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from flax import traverse_util

from advx_jax.networks.files import load_network

COMMAND = (
    sys.executable,
    "-m",
    "advx_jax.train",
    "--config=configs/smoke.py",
    "--config.epochs=12",
    "--config.keeping.checkpoint_minutes=0.0",
    "--config.attack.kind=l2",
    "--config.attack.steps=2",
    "--config.architecture.stage_lengths=(1,1)",
    "--config.architecture.stage_widths=(4,6)",
)
N_STEPS = 36
# Everything that is not a time.
TIMES = ("images_per_second", "seconds")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    # Code compiled by the first run is there for the others, so that kills meet training.
    return {**os.environ, "JAX_PLATFORMS": "cpu", "ADVX_CACHE": str(tmp_path_factory.mktemp("cache"))}


def start(workdir, environment, *flags):
    with (workdir.parent / f"{workdir.name}.log").open("a") as log:
        return subprocess.Popen(
            [*COMMAND, f"--workdir={workdir}", *flags],
            cwd=Path(__file__).parents[1],
            env=environment,
            stdout=log,
            stderr=log,
        )


def log_of(workdir):
    return (workdir.parent / f"{workdir.name}.log").read_text()


def metrics_of(workdir):
    """Which file the metrics are in now (each run begins by writing it anew), and how many steps it tells."""
    path = workdir / "metrics.jsonl"
    return (path.stat().st_ino, path.read_text().count('"kind": "step"')) if path.exists() else (0, 0)


def wait_for_steps(process, workdir, n_steps):
    """Wait until the process has told of so many steps of its own, or ends."""
    file_before, begun_with = metrics_of(workdir)[0], None
    while process.poll() is None:
        file, told = metrics_of(workdir)
        if file != file_before:
            begun_with = told if begun_with is None else begun_with
            if told >= begun_with + n_steps:
                return
        time.sleep(0.005)


def finished(workdir, environment):
    process = start(workdir, environment)
    assert process.wait(timeout=600) == 0, log_of(workdir)


def result(workdir):
    """The trained network, and the metrics without times."""
    classifier, provenance = load_network(workdir / "network.safetensors")
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    plain = [{name: value for name, value in line.items() if name not in TIMES} for line in lines]
    return traverse_util.flatten_dict(classifier.variables, sep="/"), provenance, plain


def assert_same(workdir, expected):
    variables, provenance, lines = result(workdir)
    for name, value in expected[0].items():
        np.testing.assert_array_equal(variables[name], value, err_msg=name)
    assert provenance == expected[1]
    assert lines == expected[2]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, environment):
    workdir = tmp_path_factory.mktemp("resume") / "whole"
    finished(workdir, environment)
    found = result(workdir)
    assert len(found[2]) == N_STEPS + 12
    return found


def kill_at_random(workdir, environment, n_kills, rng):
    """Kill the run `n_kills` times, each at a random moment within its next few steps; returns the kills met."""
    kills = 0
    for _ in range(n_kills):
        process = start(workdir, environment)
        wait_for_steps(process, workdir, rng.randrange(4))
        time.sleep(rng.uniform(0, 0.2))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    return kills


def test_killed_twice_to_the_bit(tmp_path, environment, uninterrupted):
    assert kill_at_random(tmp_path / "killed", environment, 2, random.Random(1)) == 2
    finished(tmp_path / "killed", environment)
    assert_same(tmp_path / "killed", uninterrupted)


@pytest.mark.slow
def test_killed_ten_times_to_the_bit(tmp_path, environment, uninterrupted):
    assert kill_at_random(tmp_path / "killed", environment, 10, random.Random(2)) >= 8
    finished(tmp_path / "killed", environment)
    assert log_of(tmp_path / "killed").count("going on from step") >= 8
    assert_same(tmp_path / "killed", uninterrupted)


def test_sigterm_saves_and_ends_well(tmp_path, environment, uninterrupted):
    workdir = tmp_path / "stopped"
    process = start(workdir, environment)
    wait_for_steps(process, workdir, 1)
    process.terminate()
    assert process.wait(timeout=120) == 0, log_of(workdir)
    assert "asked to stop: a checkpoint is in" in log_of(workdir)
    assert not (workdir / "network.safetensors").exists()
    exported = start(workdir, environment, "--export")
    assert exported.wait(timeout=120) == 0, log_of(workdir)
    assert (workdir / "network.safetensors").exists()
    finished(workdir, environment)
    assert_same(workdir, uninterrupted)


def test_ctrl_c_saves_too(tmp_path, environment, uninterrupted):
    workdir = tmp_path / "interrupted"
    process = start(workdir, environment)
    wait_for_steps(process, workdir, 1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130, log_of(workdir)
    finished(workdir, environment)
    assert_same(workdir, uninterrupted)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(tmp_path, environment):
    workdir = tmp_path / "diverged"
    process = start(workdir, environment, "--config.optimizer.learning_rate_per_128=1e30")
    assert process.wait(timeout=120) == 1
    assert "error: training stopped at step " in log_of(workdir)
    assert " is nan" in log_of(workdir) or " is inf" in log_of(workdir)
    kept = [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    stopped_at = int(log_of(workdir).split("training stopped at step ")[1].split(":")[0])
    assert kept
    assert max(kept) < stopped_at
