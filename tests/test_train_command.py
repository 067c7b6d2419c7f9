"""The training command's words to a person: help, and one clear line for whatever is wrong."""

import importlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from processes import WARNINGS, quick_environment, shell_environment
from warm_process import call_warm

from advx_jax.errors import UserError
from advx_jax.networks.registry import resolve_network
from advx_jax.reports.training_record import claim_workdir, workdir_held
from advx_jax.training.stopping import stop_on_signals

SMOKE = "--config=configs/smoke.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder to work in, outside the clone: `configs/` there is the installed one."""
    return tmp_path_factory.mktemp("train")


def call(folder: Path, *arguments: str, devices: int = 1) -> tuple[int, str, str]:
    environment = shell_environment(folder)
    if devices == 1:
        return call_warm(folder, "advx_jax.train", arguments, environment, WARNINGS)
    # JAX reads their number when it is imported.
    environment["JAX_NUM_CPU_DEVICES"] = str(devices)
    command = [sys.executable, *WARNINGS, "-m", "advx_jax.train", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    return done.returncode, done.stdout, done.stderr


def fail(folder: Path, *arguments: str, devices: int = 1) -> str:
    """The message of a call that must fail with a single line."""
    status, out, err = call(folder, *arguments, devices=devices)
    assert status == 1
    assert out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    return lines[0]


def test_help_shows_examples_and_flags(folder):
    status, out, err = call(folder, "--help")
    assert (status, err) == (0, "")
    assert "python -m advx_jax.train --config=configs/robust.py --workdir=runs/robust" in out
    for flag in ("--config", "--workdir", "--[no]export", "--[no]distributed", "--coordinator"):
        assert f"  {flag}:" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a recipe, for instance --config=configs/robust.py, got none"),
        ([SMOKE, "somewhere"], "expected flags only (--name=value), got 'somewhere'"),
        ([SMOKE, "--epochs=3"], "Unknown command line flag 'epochs'"),
        ([SMOKE, "--config.epochs=many"], "--config.epochs=many"),
        ([SMOKE, "--config.optimizer.momentum=high"], "--config.optimizer.momentum=high"),
        ([SMOKE, "--config.epochs=0"], "config.epochs: expected at least 1, got 0"),
        ([SMOKE, "--config.attack.eps=-8/255"], f"config.attack.eps: expected a number above 0, got {-8 / 255}"),
        ([SMOKE, "--config.attack.eps=8/0"], "flag --config.attack.eps=8/0: expected a number or fraction"),
        ([SMOKE, "--config.attack.kind=linf"], "config.attack.kind: expected one of none, l2, l2_min, got 'linf'"),
        ([SMOKE, "--process=1"], "expected all three of --coordinator, --n_processes and --process"),
    ],
)
def test_bad_input_gives_one_clear_line(arguments, message, folder):
    assert message in fail(folder, *arguments)


@pytest.mark.parametrize(("field", "nearest"), [("epohcs", "epochs"), ("optimizer.momentun", "momentum")])
def test_the_field_nearest_to_an_unknown_one_is_named(field, nearest, folder):
    message = fail(folder, SMOKE, f"--config.{field}=3")
    assert field.split(".")[-1] in message
    assert nearest in message


def test_fields_are_listed_where_none_is_near(folder):
    message = fail(folder, SMOKE, "--config.optimizer.x=3")
    assert message.startswith("error: config has no field optimizer.x, only ")
    assert "learning_rate_per_128, " in message
    assert "keeping" not in message
    assert fail(folder, SMOKE, "--config.epochs.x=3") == "error: config has no field epochs.x: epochs is a value"


def test_an_unknown_field_is_told_in_plain_words(folder):
    message = fail(folder, SMOKE, "--config.epoch=3")
    assert message == "error: config has no field epoch; did you mean epochs?"


def test_a_config_that_is_not_there_is_named(folder):
    assert "gone.py" in fail(folder, "--config=gone.py")


@pytest.mark.parametrize("code", ["{'epochs': 3}", "ConfigDict({'epochs': 3})"])
def test_a_config_of_somebodys_own_is_checked(code, folder):
    (folder / "own.py").write_text(f"from ml_collections import ConfigDict\n\ndef get_config():\n    return {code}\n")
    assert "config: expected the fields name, " in fail(folder, "--config=own.py")


def test_a_config_is_not_looked_for_where_nobody_meant_it(folder):
    assert "mine/smoke.py" in fail(folder, "--config=mine/smoke.py", "--config.epochs=0")


def test_a_config_may_stand_behind_its_flag(folder):
    assert "config.epochs: expected at least 1, got 0" in fail(folder, "--config", SMOKE[9:], "--config.epochs=0")


def test_a_file_in_the_place_of_the_workdir_is_left_alone(folder):
    (folder / "file").write_text("precious")
    assert "file" in fail(folder, SMOKE, "--workdir=file")
    assert (folder / "file").read_text() == "precious"


def test_a_workdir_of_another_config_is_left_alone(folder):
    config = importlib.import_module("advx_jax.configs.smoke").get_config()
    config.epochs = 9
    claim_workdir(folder / "other", config.to_dict(), {"training images": "ab" * 32, "first network": None})
    (folder / "other" / "checkpoints" / "3").mkdir(parents=True)
    before = (folder / "other" / "config.json").read_bytes()
    message = fail(folder, SMOKE, "--workdir=other")
    assert "epochs: 9 there, 3 now" in message
    assert "other" in message
    assert {path.name for path in (folder / "other").iterdir()} == {"config.json", "checkpoints"}
    assert (folder / "other" / "config.json").read_bytes() == before


def test_what_does_not_fit_is_told_before_anything_is_written(folder):
    message = fail(folder, SMOKE, "--workdir=unfit", "--config.init_from=resnet20-quick-robust")
    assert "config.init_from: expected a network of architecture ResNetArchitecture(" in message
    images = np.zeros((20, 8, 8, 3), np.uint8)
    np.savez(folder / "alone.npz", images=images, labels=np.zeros(20, int), class_names=["images"])
    message = fail(folder, SMOKE, "--workdir=unfit", "--config.data=alone.npz")
    assert "expected images of at least 2 classes in " in message
    assert message.endswith(", got 1 (images)")
    np.savez(folder / "four.npz", images=images, labels=np.arange(20) % 4)
    message = fail(folder, SMOKE, "--workdir=unfit", "--config.data=four.npz")
    assert message == (
        "error: config.penalty.target_loss: expected above 0 and below ln K = 1.386, the loss of a network that "
        "guesses, got 1.5"
    )
    assert not (folder / "unfit").exists()


def test_a_run_that_an_earlier_release_began_goes_on_with_its_target(folder):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8, 3), np.uint8)
    np.savez(folder / "begun.npz", images=images, labels=np.arange(40) % 4)
    flags = ["--config.data=begun.npz", "--config.batch_size=8", "--config.penalty.target_loss=1.3"]
    assert call(folder, SMOKE, "--workdir=begun", "--config.epochs=1", *flags)[0] == 0
    config = folder / "begun" / "config.json"
    config.write_text(config.read_text().replace('"target_loss": 1.3', '"target_loss": 1.5'))
    for arguments in (["--export"], []):
        status, _, err = call(folder, "--workdir=begun", *arguments)
        assert status == 0, err


def test_recipes_are_listed_where_one_is_missing(folder):
    message = fail(folder, "--config=configs/robst.py")
    assert "configs/adv_train.py, configs/all.py, " in message
    assert "configs/published.py" not in message
    assert message.endswith("got 'configs/robst.py'; did you mean configs/robust.py?")


def test_a_field_needs_its_recipe(folder):
    message = fail(folder, "--workdir=run", "--config.epochs=3")
    assert "expected a recipe, for instance --config=configs/robust.py, beside --config.epochs=3, got none" in message


def test_a_workdir_without_a_run_is_no_recipe(folder):
    message = fail(folder, "--workdir=nowhere", "--export")
    assert message.endswith("or the workdir of a run to go on with, got nowhere without config.json")
    assert not (folder / "nowhere").exists()


# Compiled code answers no signal: neither does a long computation in C. Nothing of JAX is needed for that.
BUSY = """
import hashlib
from advx_jax.training.stopping import stop_on_signals
with stop_on_signals() as stop:
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


def test_ctrl_c_is_answered_while_code_is_compiled(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "busy\n"
    process.send_signal(signal.SIGINT)
    assert (process.stderr.readline(), process.stderr.readline()) == ("\n", "saving; press again to stop now\n")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "\nstopped; the last checkpoint is kept\n")


def test_a_request_is_told_once_and_handlers_come_back(capfd):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        # The pipe and Python's handler both see it.
        time.sleep(0.2)
        signal.raise_signal(signal.SIGTERM)
    assert stop.signal is signal.SIGINT
    assert capfd.readouterr().err == "\nsaving; press again to stop now\n"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGTERM)
    assert stop.signal is signal.SIGTERM
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_an_interrupted_run_needs_no_more_than_its_workdir(folder):
    """It saves and ends; other commands name --export, which writes the network; the run goes on."""
    environment = quick_environment(folder / "cache")
    shape = ("--config.architecture.stage_lengths=(1,1)", "--config.architecture.stage_widths=(4,6)")
    tiny = (SMOKE, *shape, "--config.epochs=500", "--config.attack.kind=none")
    workdir = folder / "interrupted"

    def start(*arguments):
        command = [sys.executable, "-m", "advx_jax.train", "--workdir=interrupted", *arguments]
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    process = start(*tiny)
    deadline = time.monotonic() + 120
    while not (workdir / "checkpoints").is_dir() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "saving; press again to stop now" in err
    assert err.endswith("interrupted; what was finished is kept\n")
    assert "Traceback" not in err
    step = max(int(path.name) for path in (workdir / "checkpoints").iterdir())

    with pytest.raises(UserError, match=r"train --workdir=.*interrupted --export"):
        resolve_network(str(workdir))
    exported = start("--export")
    out, err = exported.communicate(timeout=120)
    assert f"tiny-smoke after {step} steps: interrupted/network.safetensors" in out, err
    assert resolve_network(str(workdir)).provenance.name == "tiny-smoke"

    process = start()
    assert process.stdout.readline() == f"going on from step {step} of 1500\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "asked to stop: a checkpoint is in interrupted" in out


@pytest.fixture(scope="module")
def refused_batch(folder):
    """What is said of a batch of 80 on three devices."""
    return fail(folder, SMOKE, "--workdir=shared", devices=3)


@pytest.fixture(scope="module")
def refused_export(folder):
    """What is said where there is no checkpoint."""
    return fail(folder, SMOKE, "--export", "--workdir=empty")


@pytest.mark.slow
def test_a_batch_that_the_devices_cannot_share_is_refused(refused_batch):
    assert "config.batch_size: expected a multiple of the 3 devices (1 processes), got 80" in refused_batch


@pytest.mark.slow
def test_a_batch_that_was_refused_can_be_corrected_in_the_same_workdir(refused_batch, folder):
    assert not (folder / "shared" / "config.json").exists()


def test_without_a_checkpoint_there_is_nothing_to_export(refused_export):
    assert "expected the workdir of a training run, got empty without config.json" in refused_export


def test_where_there_is_nothing_to_export_nothing_is_written(refused_export, folder):
    assert not (folder / "empty").exists()


def test_a_workdir_in_which_another_process_trains_is_refused(folder):
    (folder / "busy").mkdir()
    (folder / "busy" / "metrics.jsonl").write_text("{}\n")
    with workdir_held(folder / "busy"):
        message = fail(folder, SMOKE, "--workdir=busy")
    assert message == ("error: another process trains in busy: wait until it ends, or choose another --workdir")
    assert (folder / "busy" / "metrics.jsonl").read_text() == "{}\n"
