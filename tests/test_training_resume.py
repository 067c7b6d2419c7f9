"""A run that is killed or stopped goes on to the same bits as one that is not."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from flax import traverse_util
from processes import quick_environment

from advx_jax.networks.files import load_network

COMMAND = (
    sys.executable,
    "-m",
    "advx_jax.train",
    "--config=configs/smoke.py",
    "--config.keeping.checkpoint_minutes=0.0",
    "--config.attack.kind=l2",
    "--config.attack.steps=2",
    "--config.architecture.stage_lengths=(1,1)",
    "--config.architecture.stage_widths=(4,6)",
)
STEPS_PER_EPOCH = 3
# Everything that is not a time.
TIMES = ("images_per_second", "seconds")


def epochs(n):
    return f"--config.epochs={n}"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    # Code compiled by the first run is there for the others, so that kills meet training.
    return quick_environment(tmp_path_factory.mktemp("cache"))


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


def finished(workdir, environment, *flags):
    process = start(workdir, environment, *flags)
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


def whole(folder, environment, n_epochs):
    """What a run gives that is left alone."""
    finished(folder / "whole", environment, epochs(n_epochs))
    found = result(folder / "whole")
    assert len(found[2]) == n_epochs * (STEPS_PER_EPOCH + 1)
    return found


def kill_at_random(workdir, environment, n_kills, n_epochs, rng):
    """Kill the run `n_kills` times, each at a random moment within its next few steps; returns the kills met."""
    kills = 0
    for _ in range(n_kills):
        process = start(workdir, environment, epochs(n_epochs))
        wait_for_steps(process, workdir, rng.randrange(4))
        time.sleep(rng.uniform(0, 0.2))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    return kills


def interrupt(workdir, environment, n_epochs, number):
    """Send a signal after a step; returns how the run ended."""
    process = start(workdir, environment, epochs(n_epochs))
    wait_for_steps(process, workdir, 1)
    process.send_signal(number)
    return process.wait(timeout=120)


@pytest.mark.slow
def test_killed_terminated_and_interrupted_to_the_bit(tmp_path, environment):
    n_epochs, workdir = 6, tmp_path / "broken"
    expected = whole(tmp_path, environment, n_epochs)
    assert kill_at_random(workdir, environment, 1, n_epochs, random.Random(1)) == 1

    assert interrupt(workdir, environment, n_epochs, signal.SIGTERM) == 0, log_of(workdir)
    assert "asked to stop: a checkpoint is in" in log_of(workdir)
    assert not (workdir / "network.safetensors").exists()
    finished(workdir, environment, epochs(n_epochs), "--export")
    (workdir / "network.safetensors").unlink()

    assert interrupt(workdir, environment, n_epochs, signal.SIGINT) == 130, log_of(workdir)
    assert not (workdir / "network.safetensors").exists()
    finished(workdir, environment, epochs(n_epochs))
    assert_same(workdir, expected)


@pytest.mark.slow
def test_killed_ten_times_to_the_bit(tmp_path, environment):
    n_epochs, workdir = 12, tmp_path / "killed"
    expected = whole(tmp_path, environment, n_epochs)
    assert kill_at_random(workdir, environment, 10, n_epochs, random.Random(2)) >= 8
    finished(workdir, environment, epochs(n_epochs))
    assert log_of(workdir).count("going on from step") >= 8
    assert_same(workdir, expected)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(tmp_path, environment):
    workdir = tmp_path / "diverged"
    process = start(workdir, environment, "--config.optimizer.learning_rate_per_128=1e30", "--config.attack.kind=none")
    assert process.wait(timeout=120) == 1
    assert "error: training stopped at step " in log_of(workdir)
    assert " is nan" in log_of(workdir) or " is inf" in log_of(workdir)
    kept = [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    stopped_at = int(log_of(workdir).split("training stopped at step ")[1].split(":")[0])
    assert kept
    assert max(kept) < stopped_at
