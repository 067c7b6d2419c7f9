"""The commands when several write into one folder, and when they are killed at any moment."""

import hashlib
import json
import random
import signal
import time

import pytest
from networks import random_classifier
from processes import measure_flags, start, succeed

from advx_jax.networks.classifier import Provenance
from advx_jax.networks.files import save_network

# By what a test calls it: a command, and behind a space what is special.
COMMANDS = {
    "explain": ("--steps=20", "--n_images=24"),
    "explain methods": ("--methods=adversarial,integrated_gradients,grad_cam", "--steps=20", "--n_images=24"),
    "ara": ("--steps=20", "--eps=5", "--n_images=48"),
    "robustness": ("--attack=apgd-t", "--steps=60", "--eps=0.02", "--n_images=48", "--pictures"),
    "evaluate": ("--n_images=200",),
    "faithfulness": ("--methods=gradient,adversarial,random", "--metrics=deletion,road", "--n_images=64"),
    "attackbench": ("--attacks=fmn@60,ddn@40,apgd@60", "--norm=L2", "--n_images=48"),
}
# What may differ between two runs that make the same.
PASSING = ("seconds", "environment")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs")
    save_network(path / "tiny.safetensors", random_classifier(), Provenance(name="tiny"))
    return path


def command_line(command, output):
    name = command.split()[0]
    return name, *measure_flags(name, COMMANDS[command], output)


def without_times(value):
    if isinstance(value, dict):
        return {name: without_times(item) for name, item in value.items() if name not in PASSING}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def results(folder):
    """What is in a folder of results, but for times and what is kept to go on from."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".jsonl":
            name = str(path.relative_to(folder))
            if path.suffix == ".json":
                found[name] = without_times(json.loads(path.read_text()))
            else:
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def undisturbed(folder):
    made = {}

    def get(command):
        if command not in made:
            began = time.monotonic()
            succeed(folder, *command_line(command, f"whole-{command}"))
            made[command] = results(folder / f"whole-{command}"), time.monotonic() - began
        return made[command]

    return get


def killed_and_continued(folder, command, output, kills, undisturbed, seed, signals=(signal.SIGKILL, signal.SIGINT)):
    rng = random.Random(seed)
    expected, seconds = undisturbed(command)
    for _ in range(kills):
        process = start(folder, *command_line(command, output))
        time.sleep(rng.uniform(0, seconds))
        process.send_signal(rng.choice(signals))
        process.communicate(timeout=60)
    succeed(folder, *command_line(command, output))
    assert results(folder / output) == expected


# All commands go on with the same store: but for the shortest they are killed with the slow tests.
@pytest.mark.parametrize(
    "command", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("explain", "ara", "robustness")), "evaluate"]
)
def test_killed_and_continued_gives_the_files_of_an_undisturbed_run(command, folder, undisturbed):
    killed_and_continued(folder, command, f"killed-{command}", 1, undisturbed, seed=command)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("round_", range(5))
def test_a_hundred_kills_lose_nothing(command, round_, folder, undisturbed):
    killed_and_continued(folder, command, f"killed-{command}-{round_}", 5, undisturbed, seed=f"{command} {round_}")


def end(process):
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err


@pytest.mark.slow
def test_two_that_explain_other_images_lose_none(folder):
    common = ("--model=tiny.safetensors", "--steps=10", "--output=shared")
    processes = [start(folder, "explain", *common, f"--indices={indices}") for indices in ("0,1,2,3,4", "5,6,7,8,9")]
    for process in processes:
        end(process)
    listed = json.loads((folder / "shared" / "explanations.json").read_text())["images"]
    assert [entry["name"] for entry in listed] == [str(n) for n in range(10)]
    # The gallery included.
    succeed(folder, "explain", *common[:2], "--output=alone", "--n_images=10")
    assert results(folder / "shared") == results(folder / "alone")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["ara", "robustness"])
def test_two_that_measure_the_same_share_it(command, folder, undisturbed):
    output = f"shared-{command}"
    for process in [start(folder, *command_line(command, output)) for _ in range(2)]:
        end(process)
    assert results(folder / output) == undisturbed(command)[0]
    keys = []
    for path in (folder / output).glob("*.jsonl"):
        for line in path.read_text().splitlines():
            keys += [f"{key} {record.get('runs')}" for key, record in json.loads(line).get("records", {}).items()]
    # Nothing was done twice.
    assert len(keys) == len(set(keys))
