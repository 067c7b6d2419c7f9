"""The training command in two processes: one writes, all stop together, and one alone can go on."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from flax import traverse_util
from processes import quick_environment

from advx_jax.networks.files import load_network

FLAGS = (
    "--config=configs/smoke.py",
    "--config.attack.kind=l2",
    "--config.attack.steps=2",
    "--config.architecture.stage_lengths=(1,1)",
    "--config.architecture.stage_widths=(4,6)",
)
# Nine float32 steps with sums in another order.
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return quick_environment(tmp_path_factory.mktemp("cache"))


def start(workdir, environment, *flags):
    return subprocess.Popen(
        [sys.executable, "-m", "advx_jax.train", *FLAGS, f"--workdir={workdir}", *flags],
        cwd=Path(__file__).parents[1],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_two(workdir, environment, *flags, second=()):
    """Two processes; `second` are flags of the second one alone."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    return [
        start(workdir, environment, f"--coordinator={address}", "--n_processes=2", f"--process={number}", *flags, *own)
        for number, own in enumerate(((), second))
    ]


def end(process):
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    return said


def epochs(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "epoch"]


def network(workdir):
    return traverse_util.flatten_dict(load_network(workdir / "network.safetensors")[0].variables, sep="/")


@pytest.fixture(scope="module")
def alone(tmp_path_factory, environment):
    workdir = tmp_path_factory.mktemp("processes") / "alone"
    end(start(workdir, environment))
    return workdir


def assert_alike(workdir, alone):
    for name, value in network(alone).items():
        np.testing.assert_allclose(network(workdir)[name], value, rtol=0, atol=TOLERANCE, err_msg=name)
    for ours, theirs in zip(epochs(workdir), epochs(alone), strict=True):
        for name in ("train_loss", "test_loss", "test_accuracy"):
            assert ours[name] == pytest.approx(theirs[name], abs=2e-2)


@pytest.mark.slow
def test_two_processes_give_the_same_network(alone, environment, tmp_path):
    said = [end(process) for process in start_two(tmp_path / "two", environment)]
    assert_alike(tmp_path / "two", alone)
    assert "network: " in said[0]
    assert "epoch 1" not in said[1]


@pytest.mark.slow
@pytest.mark.parametrize("minutes", ["10.0", "0.0"])
def test_both_stop_at_the_same_step_whichever_is_asked_and_one_alone_goes_on(minutes, alone, environment, tmp_path):
    """Also where the clock of one of them asks for a checkpoint after every step, and that of the other never."""
    workdir = tmp_path / "stopped"
    processes = start_two(workdir, environment, second=(f"--config.keeping.checkpoint_minutes={minutes}",))
    while not (workdir / "metrics.jsonl").exists() and processes[0].poll() is None:
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    said = [end(process) for process in processes]
    assert "asked to stop" in said[0]
    assert not (workdir / "network.safetensors").exists()
    assert "going on from step" in end(start(workdir, environment))
    assert_alike(workdir, alone)
