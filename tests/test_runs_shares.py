"""What several processes measure in parts equals what one measures, byte for byte but for times."""

import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from networks import random_classifier
from processes import call, fail, measure_flags, quick_environment, succeed
from stores import change_record

import advx_jax.files
import advx_jax.runs.explain as explain_module
import advx_jax.runs.measurement as measurement_module
from advx_jax.analysis.accuracy import predict
from advx_jax.analysis.attribution import find_method
from advx_jax.analysis.faithfulness import find_metric
from advx_jax.attacks import APGD, EXPLANATION, FMN
from advx_jax.data.image_set import CIFAR10_CLASSES, ImageSet, unit_images
from advx_jax.errors import UserError
from advx_jax.networks.classifier import Provenance
from advx_jax.networks.files import save_network
from advx_jax.networks.registry import ResolvedNetwork
from advx_jax.networks.resnet import ResNetArchitecture
from advx_jax.reports.results_json import head, write_json
from advx_jax.runs.ara import RobustnessAreas
from advx_jax.runs.evaluate import Evaluation, results_path
from advx_jax.runs.explain import given_images, write_explanations
from advx_jax.runs.faithfulness import Faithfulness
from advx_jax.runs.measurement import measure
from advx_jax.runs.robustness import RobustAccuracy
from advx_jax.runs.shares import WHOLE, Share
from advx_jax.runs.store import Store

N = 6
# With fewer channels, some processors round gradients of two images otherwise than those of one or three.
WIDE_ENOUGH = ResNetArchitecture((1, 1), (16, 32), activation="half_huber")
SECONDS = re.compile(rb'"seconds": (\{[^}]*\}|[0-9.e-]+)')
COMMANDS = {
    "explain": ("--steps=4", "--n_images=6"),
    "ara": ("--steps=20", "--eps=5", "--n_images=12"),
    "robustness": ("--attack=apgd-t", "--steps=10", "--eps=0.02", "--n_images=40", "--pictures"),
    "evaluate": ("--n_images=50",),
}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    tiny = random_classifier(architecture=WIDE_ENOUGH)
    return ResolvedNetwork(tiny, Provenance(name="tiny"), tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def data(network):
    """Images of which the network takes all but two for what they are."""
    images = np.random.default_rng(0).integers(0, 256, (N, 32, 32, 3), np.uint8)
    labels = predict(network.classifier, unit_images(images)).classes.astype(np.int64)
    labels[:2] = (labels[:2] + 1) % 10
    return ImageSet(images, labels, CIFAR10_CLASSES, "a test")


def explain(network, data, output, share, overwrite=False):
    wanted = given_images(data, range(N))
    settings = EXPLANATION.replace(steps=3)
    return write_explanations(network, wanted, settings, output, overwrite, False, beside=network, share=share)


def ara(network, data, output, share, overwrite=False):
    return measure(RobustnessAreas(network, data, N, FMN(steps=6), output), overwrite, share).text


def robustness(network, data, output, share, overwrite=False):
    attacks = (APGD(eps=1.0, norm="L2", steps=4),)
    measurement = RobustAccuracy(network, data, N, "apgd-ce", attacks, 0, output, pictures=True)
    return measure(measurement, overwrite, share).text


def evaluate(network, data, output, share, overwrite=False):
    output.mkdir(exist_ok=True)
    outcome = measure(Evaluation(network, data, N, output / "accuracy.json"), overwrite, share)
    if outcome.summary is None:
        return outcome.status
    write_json(output / "accuracy.json", outcome.summary)
    return str(outcome.summary["accuracy"])


def faithfulness(network, data, output, share, overwrite=False):
    methods = {name: find_method(name) for name in ("gradient", "random")}
    metrics = {"deletion": find_metric("deletion", steps=3)}
    return measure(Faithfulness(network, data, N, methods, metrics, "predicted", 0, output), overwrite, share).text


MEASURES = [explain, ara, robustness, evaluate, faithfulness]


def files(folder):
    """All but the logs, in which chunks stand as they were finished."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".jsonl"]
    return {str(path.relative_to(folder)): SECONDS.sub(b"", path.read_bytes()) for path in paths}


def without_seconds(said, output):
    """What is printed, without the column of seconds, which is wider the longer they are, and the folder."""
    return re.sub(r" +(seconds|\d+\.\d)?\n", "\n", said).replace(str(output), "")


# Two shards of robustness are looked at below, where nobody has locks.
@pytest.mark.parametrize(
    ("work", "count"),
    [
        pytest.param(work, count, marks=pytest.mark.slow if count == 2 or work not in (ara, evaluate) else ())
        for work in MEASURES
        for count in (2, 4)
    ],
)
def test_shards_make_the_files_of_one_process(work, count, network, data, tmp_path):
    alone = work(network, data, tmp_path / "alone", WHOLE)
    expected = files(tmp_path / "alone")
    output = tmp_path / str(count)
    # In another order than they are numbered.
    for index in reversed(range(1, count)):
        said = work(network, data, output, Share(index, count))
        assert said.startswith(f"shard {index + 1}/{count} is done: ")
        assert "\n" not in said
        assert not {name for name in files(output) if name.endswith(".json")}
    said = work(network, data, output, Share(0, count))
    assert without_seconds(said, output) == without_seconds(alone, tmp_path / "alone")
    assert files(output) == expected
    before = {path: path.read_text() for path in output.rglob("*.jsonl")}
    assert len(before) == count * (2 if work is explain else 1)
    # Nothing is computed again, with or without shards.
    work(network, data, output, WHOLE)
    work(network, data, output, Share(1, count))
    assert files(output) == expected
    for path, text in before.items():
        assert path.read_text() == text


@pytest.mark.slow
def test_bars_of_two_networks_say_whose_they_are(network, data, tmp_path, monkeypatch):
    described, shown = [], measurement_module.progress

    def noted(total, unit, description, *rest, **options):
        described.append(description)
        return shown(total, unit, description, *rest, **options)

    monkeypatch.setattr(measurement_module, "progress", noted)
    explain(network, data, tmp_path / "two", WHOLE)
    evaluate(network, data, tmp_path / "one", WHOLE)
    assert described == ["explain tiny", "explain tiny", "evaluate"]


def test_evaluation_is_that_of_all_images_at_once(network, data, tmp_path):
    predictions, labels = predict(network.classifier, unit_images(data.images)), data.labels.astype(np.int32)
    whole = measure(Evaluation(network, data, N)).summary
    assert whole["accuracy"] == predictions.accuracy(labels)
    # To the bit.
    assert whole["loss"] == predictions.loss(labels)
    # Losses that JSON has no numbers for.
    kept = Evaluation(network, data, 1)
    assert kept.summarise({"0": {"predicted": 3, "loss": None}}, {})["loss"] == np.inf
    assert np.isnan(kept.summarise({"0": {"predicted": -1, "loss": None}}, {})["loss"])
    with pytest.raises(
        UserError, match=r"expected a name as \S*accuracy\.json for the results, got \S*accuracy\.jsonl"
    ):
        results_path(tmp_path / "accuracy.jsonl")


@pytest.mark.parametrize(
    "change", [{"predicted": 10}, {"predicted": -2}, {"predicted": True}, {"loss": "x"}, {"loss": True}, {"more": 1}]
)
def test_predictions_that_are_none_are_made_again(change, network, data, tmp_path):
    output = tmp_path / "accuracy.json"
    made = measure(Evaluation(network, data, N, output)).summary
    change_record(tmp_path / "accuracy.jsonl", "0", {"predicted": 0, "loss": 0.5} | change)
    path = tmp_path / "accuracy.jsonl"
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text(first + rest[-1])
    assert measure(Evaluation(network, data, N, output)).summary == made


def test_the_last_shard_shows_both_networks_whoever_completed_the_first(network, data, tmp_path, monkeypatch):
    explain(network, data, tmp_path / "alone", WHOLE)
    begun = []

    def measured(measurement, overwrite=False, share=WHOLE):
        begun.append(share.index)
        if begun == [1, 1]:
            # While one is between the networks, the other does its part of both.
            explain(network, data, tmp_path / "shards", Share(0, 2))
        return measure(measurement, overwrite, share)

    monkeypatch.setattr(explain_module, "measure", measured)
    explain(network, data, tmp_path / "shards", Share(1, 2))
    assert files(tmp_path / "shards") == files(tmp_path / "alone")


def test_a_shard_tells_what_is_there_and_what_is_missing(network, data, tmp_path):
    said = ara(network, data, tmp_path, Share(1, 4))
    assert said == (
        f"shard 2/4 is done: 2 of 6 images are in {tmp_path}, 4 are missing (shard 1, 3, 4); "
        "whoever completes them writes the results"
    )
    # Without shards, the rest is computed.
    assert "\nuntil " in ara(network, data, tmp_path, WHOLE)


@pytest.mark.slow
def test_a_shard_needs_no_locks_and_removes_nothing(network, data, tmp_path, monkeypatch):
    alone = robustness(network, data, tmp_path / "alone", WHOLE)
    monkeypatch.setattr(advx_jax.files, "fcntl", None)
    output = tmp_path / "shards"
    robustness(network, data, output, Share(0, 2))
    half_written = output / ".robustness-abcd1234.tmp.json"
    half_written.write_text("")
    assert robustness(network, data, output, Share(1, 2)).splitlines()[0] == alone.splitlines()[0]
    # It may be another's, who is at work.
    assert half_written.exists()
    half_written.unlink()
    assert files(output) == files(tmp_path / "alone")


def test_shards_of_other_settings_are_not_to_be_overwritten_one_by_one(network, data, tmp_path):
    ara(network, data, tmp_path, Share(0, 2))
    other = RobustnessAreas(network, data, N, FMN(steps=7), tmp_path)
    with pytest.raises(UserError, match="choose another --output, or --overwrite without --shard"):
        measure(other, False, Share(0, 2))


def test_one_shard_has_one_process(network, data, tmp_path):
    measurement = RobustnessAreas(network, data, N, FMN(steps=6), tmp_path)
    with Store(measurement.path, head("ara", 1, measurement.settings), share=Share(0, 2).name):
        with pytest.raises(UserError, match="another process works on shard-1-of-2 in"):
            ara(network, data, tmp_path, Share(0, 2))
        ara(network, data, tmp_path, Share(1, 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("shares")
    save_network(path / "tiny.safetensors", random_classifier(), Provenance(name="tiny"))
    return path


def flags(command, output):
    return measure_flags(command, COMMANDS[command], output)


@pytest.mark.parametrize("shard", ["0/4", "5/4", "x"])
def test_shards_that_are_none_are_refused(shard, folder):
    message = fail(folder, "ara", "--model=gone.pt", f"--shard={shard}")
    assert f"flag --shard={shard}: expected a part of several (1/4 to 4/4)" in message


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("ara", ("--shard=1/2", "--overwrite"), "expected --shard without --overwrite"),
        ("evaluate", ("--shard=1/2",), "expected --output, where the processes put what they find, got none"),
        ("explain", ("--shard=1/2", "--distributed"), "expected --shard, or several processes that know of each other"),
        (
            "evaluate",
            ("--coordinator=localhost:1",),
            "expected all three of --coordinator, --n_processes",
        ),
        (
            "evaluate",
            ("--coordinator=localhost:1", "--n_processes=2", "--process=2"),
            "expected --process from 0 to 1, got 2",
        ),
        ("evaluate", ("--distributed",), "expected a cluster's environment that names the processes"),
    ],
)
def test_flags_that_do_not_fit_are_refused(command, arguments, message, folder):
    assert message in fail(folder, command, "--model=tiny.safetensors", *arguments)


def start_quick(folder, command, *arguments):
    """Start a command that compiles fast."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", f"advx_jax.{command}", *arguments],
        cwd=folder,
        env=quick_environment(folder / "cache"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def start_together(folder, command, arguments, count, outputs=None):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    return [
        start_quick(
            folder,
            command,
            *arguments,
            *(f"--coordinator={address}", f"--n_processes={count}", f"--process={number}"),
            *([f"--output={outputs[number]}"] if outputs else []),
        )
        for number in range(count)
    ]


def measured_together(command, count, folder):
    output = f"{command}-{count}"
    said = [end(process) for process in start_together(folder, command, flags(command, output), count)]
    assert said[1:] == [f"process {number} is done\n" for number in range(1, count)]
    return said[0], files(folder / output)


@pytest.fixture(scope="module")
def alone(folder):
    made = {}

    def get(command):
        if command not in made:
            succeed(folder, command, *flags(command, f"{command}-1"))
            made[command] = files(folder / f"{command}-1")
        return made[command]

    return get


@pytest.mark.slow
def test_a_killed_shard_goes_on(folder, alone):
    command, output = "robustness", "killed"
    process = start_quick(folder, command, *flags(command, output), "--shard=1/2")
    path = folder / output / "images-shard-1-of-2.jsonl"
    while process.poll() is None and not (path.exists() and path.read_text().count('"records"')):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    for shard in ("2/2", "1/2"):
        succeed(folder, command, *flags(command, output), f"--shard={shard}")
    assert files(folder / output) == alone(command)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", "robustness"])
def test_two_processes_together_make_the_files_of_one(command, folder, alone):
    said, made = measured_together(command, 2, folder)
    assert made == alone(command)
    assert len(said.splitlines()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("command", COMMANDS)
def test_processes_together_make_the_files_of_one(command, count, folder, alone):
    assert measured_together(command, count, folder)[1] == alone(command)


@pytest.mark.slow
def test_folders_that_are_not_shared_are_told_in_one_line(folder):
    arguments = ("--model=tiny.safetensors", "--n_images=10")
    processes = start_together(folder, "evaluate", arguments, 2, ["here/accuracy.json", "there/accuracy.json"])
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [1, 0]
    (line,) = [line for line in said[0][1].splitlines() if line.startswith("error: ")]
    assert line == "error: expected a folder that all processes share, got here, which lacks 5 of 10 images"


def test_what_all_refuse_each_tells_in_one_line(folder, alone):
    alone("evaluate")
    save_network(folder / "stranger.safetensors", random_classifier(seed=7), Provenance(name="stranger"))
    arguments = ("--model=stranger.safetensors", "--n_images=10", "--output=evaluate-1/accuracy.json")
    processes = start_together(folder, "evaluate", arguments, 2)
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 1], said
    for err in said:
        (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
        assert "model=tiny there, stranger now" in line


@pytest.mark.slow
def test_evaluate_keeps_what_it_knows_and_takes_more(folder):
    arguments = ("--model=tiny.safetensors", "--output=kept/accuracy.json")
    succeed(folder, "evaluate", *arguments, "--n_images=20")
    before = (folder / "kept" / "accuracy.jsonl").read_text()
    out = succeed(folder, "evaluate", *arguments, "--n_images=30")
    after = (folder / "kept" / "accuracy.jsonl").read_text()
    assert after.startswith(before)
    assert '"0": {' not in after.removeprefix(before)
    assert call(folder, "evaluate", "--model=tiny.safetensors", "--n_images=30")[1] == out
    # What only has a similar name is none of its own.
    save_network(folder / "other.safetensors", random_classifier(seed=3), Provenance(name="other"))
    others = ("--model=other.safetensors", "--n_images=20")
    succeed(folder, "evaluate", *others, "--output=kept/accuracy-2.json")
    assert succeed(folder, "evaluate", *arguments, "--n_images=30") == out
    message = fail(folder, "evaluate", *others, "--output=kept/accuracy.json")
    assert "model=tiny there, other now" in message
    assert "--overwrite" in message
    succeed(folder, "evaluate", *others, "--output=kept/accuracy.json", "--overwrite")
    assert {path.name for path in (folder / "kept").iterdir()} == {
        *("accuracy.json", "accuracy.jsonl", "accuracy-2.json", "accuracy-2.jsonl"),
    }
