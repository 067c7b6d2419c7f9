"""The same global batch gives the same result on any number of devices and processes."""

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import quick_environment
from recipes import PUBLISHED_RECIPES

SCRIPT = Path(__file__).parent / "train_on_devices.py"
# Twenty steps of sums in another order, in float64.
FLOAT64_TOLERANCE = 1e-9
# One step of ResNet-44 in float32, relative to the largest number of each array: some gradients are
# sums of terms a thousand times larger.
FLOAT32_TOLERANCE = 2e-3


def start(output, n_devices, setup, *processes):
    command = [sys.executable, str(SCRIPT), str(output), str(n_devices), setup, *map(str, processes)]
    return subprocess.Popen(
        command, env=quick_environment(output.parent), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors[-3000:]


def train(folder, n_devices, setup):
    output = folder / f"{setup}-{n_devices}.npz"
    finish(start(output, n_devices, setup))
    return dict(np.load(output))


def train_in_two_processes(folder, setup):
    output = folder / f"{setup}-processes.npz"
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    processes = [start(output, 2, setup, address, number) for number in (0, 1)]
    for process in processes:
        finish(process)
    return dict(np.load(output))


def assert_same(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        size = max(1, float(np.abs(value).max())) if tolerance == FLOAT64_TOLERANCE else float(np.abs(value).max())
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance * size, err_msg=name)


def assert_moves(found, name, n_steps=20):
    losses = [found[f"{name}/metrics/{step}/class_loss"] for step in range(n_steps)]
    assert np.isfinite(losses).all()
    assert len(set(map(float, losses))) == n_steps


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("devices")


@pytest.fixture(scope="module")
def on_one_device(folder):
    return train(folder, 1, "float64")


def test_devices_change_nothing_in_two_epochs_of_the_recipe_with_everything(folder):
    """It stands for the others by default."""
    expected = train(folder, 1, "everything_briefly")
    assert_moves(expected, "all", 8)
    assert expected["all/metrics/7/penalty"] > 0
    assert [bool(expected[f"all/stopping/{step}"]) for step in (0, 6, 7)] == [False, False, True]
    assert_same(train(folder, 4, "everything_briefly"), expected, FLOAT64_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("n_devices", [2, 4])
def test_devices_change_nothing_in_20_steps_of_every_recipe(n_devices, folder, on_one_device):
    assert_same(train(folder, n_devices, "float64"), on_one_device, FLOAT64_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("setup", ["everything", "float64"])
def test_two_processes_of_two_devices_change_nothing(setup, folder, on_one_device):
    found = train_in_two_processes(folder, setup)
    expected = {key: value for key, value in on_one_device.items() if setup == "float64" or key.startswith("all/")}
    assert_same(found, expected, FLOAT64_TOLERANCE)


@pytest.mark.slow
def test_training_moves_and_stays_finite(on_one_device):
    for name in PUBLISHED_RECIPES:
        assert_moves(on_one_device, name)
    assert on_one_device["robust/metrics/19/penalty"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("setup", ["per_device_briefly", "per_device"])
def test_each_device_for_itself_is_harmless_where_a_device_has_only_padding(setup, folder):
    found = train(folder, 4, setup)
    for name, value in found.items():
        assert np.isfinite(value).all(), name
        if name.endswith("/spread"):
            assert value == 0


@pytest.mark.slow
def test_each_device_for_itself_on_one_device_is_the_same_as_together(folder, on_one_device):
    found = train(folder, 1, "per_device")
    for name in ("standard", "all"):
        for step in range(8):
            key = f"{name}/metrics/{step}/class_loss"
            np.testing.assert_allclose(found[key], on_one_device[key], rtol=FLOAT64_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("n_devices", [2, 4])
def test_one_float32_step_of_resnet44(n_devices, folder):
    expected = train(folder, 1, "float32")
    assert_same(train(folder, n_devices, "float32"), expected, FLOAT32_TOLERANCE)
