"""The files of a training run: config, metrics, curves."""

import copy
import importlib
import json
import math

import numpy as np
import pytest
from PIL import Image

from advx_jax.errors import UserError
from advx_jax.reports.training_curves import write_training_curves
from advx_jax.reports.training_record import MetricsFile, claim_workdir, is_begun, read_metrics
from advx_jax.training.checkpoints import CHECKPOINTS
from advx_jax.training.recipe import completed

FINGERPRINTS = {"training images": "ab" * 32, "first network": None}


@pytest.fixture
def config():
    return importlib.import_module("advx_jax.configs.all").get_config().to_dict()


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def refusal(workdir, config, fingerprints=FINGERPRINTS):
    """The message of a claim that must be refused and must leave the file as it was."""
    path = workdir / "config.json"
    before = path.read_bytes()
    with pytest.raises(UserError) as caught:
        claim_workdir(workdir, config, fingerprints)
    assert path.read_bytes() == before
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert str(workdir) in message
    return message


def test_the_first_claim_writes_the_resolved_config(tmp_path, config):
    workdir = tmp_path / "runs" / "all"
    claim_workdir(workdir, config, FINGERPRINTS)
    written = json.loads((workdir / "config.json").read_text())
    assert written["config"] == json.loads(json.dumps(completed(config)))
    assert written["data"]["class_names"] is None
    assert written["config"]["optimizer"]["learning_rate_drops"] == [170, 195]
    assert written["fingerprints"] == FINGERPRINTS
    assert written["environment"]["device"]["platform"]
    assert files_in(workdir) == ["config.json"]


def test_a_damaged_line_of_metrics_is_left_out(tmp_path):
    good = '{"kind": "step", "step": 1, "accuracy": 0.5}\n'
    (tmp_path / "metrics.jsonl").write_bytes(good.encode() + b'{"kind": "step", "step": 2\xff\x00\n' + b"\xfe\n")
    assert list(read_metrics(tmp_path)) == [json.loads(good)]


def test_the_same_config_passes_again(tmp_path, config):
    for _ in range(3):
        claim_workdir(tmp_path, config, FINGERPRINTS)
    # As read from JSON, with lists for tuples, it is still the same.
    claim_workdir(tmp_path, json.loads(json.dumps(config)), FINGERPRINTS)


def test_another_config_is_refused_and_the_fields_are_named(tmp_path, config):
    claim_workdir(tmp_path, config, FINGERPRINTS)
    other = copy.deepcopy(config)
    other["epochs"] = 20
    other["optimizer"]["learning_rate_drops"] = (10, 15)
    message = refusal(tmp_path, other)
    assert "epochs: 200 there, 20 now" in message
    assert "optimizer.learning_rate_drops: [170, 195] there, [10, 15] now" in message
    assert message.count(" there, ") == 2
    assert "--workdir" in message


@pytest.mark.parametrize("field", ["name", "seed", "batch_size", "held_out", "batch_norm", "compute_dtype"])
def test_nothing_that_changes_the_result_may_differ(field, tmp_path, config):
    claim_workdir(tmp_path, config, FINGERPRINTS)
    assert f"{field}: " in refusal(tmp_path, {**config, field: "other"})


def test_a_penalty_may_not_be_added_or_taken_away(tmp_path, config):
    claim_workdir(tmp_path, config, FINGERPRINTS)
    assert "penalty.rate: 0.02 there, nothing now" in refusal(tmp_path, {**config, "penalty": None})


def test_what_is_kept_and_where_the_data_lies_may_differ(tmp_path, config):
    claim_workdir(tmp_path, config, FINGERPRINTS)
    other = {**copy.deepcopy(config), "data": "/elsewhere", "init_from": "moved.safetensors"}
    other["keeping"] |= {"log_every": 1, "n_checkpoints": 9, "checkpoint_minutes": 0.5, "ara_images": 32}
    claim_workdir(tmp_path, other, FINGERPRINTS)
    # The last one stands in the file.
    assert json.loads((tmp_path / "config.json").read_text())["config"] == json.loads(json.dumps(completed(other)))


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_other_images_or_another_first_network_are_refused(name, tmp_path, config):
    claim_workdir(tmp_path, config, FINGERPRINTS)
    message = refusal(tmp_path, config, {**FINGERPRINTS, name: "cd" * 32})
    assert f"{name}: {FINGERPRINTS[name]} there, {'cd' * 32} now" in message


def test_checkpoints_without_a_config_are_left_alone(tmp_path, config):
    (tmp_path / CHECKPOINTS).mkdir()
    with pytest.raises(UserError, match="checkpoints without it"):
        claim_workdir(tmp_path, config, FINGERPRINTS)
    assert files_in(tmp_path) == [CHECKPOINTS]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"format": 99}',
        '{"format": 1}',
    ],
)
def test_a_damaged_config_gives_one_line(content, tmp_path, config):
    (tmp_path / "config.json").write_text(content)
    assert "config.json" in refusal(tmp_path, config)


def test_a_run_that_left_nothing_gives_way_to_a_corrected_one(tmp_path, config):
    claim_workdir(tmp_path, config, FINGERPRINTS)
    # As a run leaves it that stopped before its first checkpoint, which is still being written.
    MetricsFile(tmp_path, 0).add({"kind": "step", "step": 10, "class_loss": 9.0})
    (tmp_path / CHECKPOINTS / "40.orbax-checkpoint-tmp-0").mkdir(parents=True)
    other = {**copy.deepcopy(config), "epochs": 20}
    now = {**FINGERPRINTS, "first network": "cd" * 32}
    assert "epochs: 200 there, 20 now" in refusal(tmp_path, other, now)
    claim_workdir(tmp_path, other, now, replace_unbegun=True)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["config"] == json.loads(json.dumps(completed(other)))
    assert written["fingerprints"] == now


@pytest.mark.parametrize("left", ["checkpoints/40", "network.safetensors", "best.safetensors", "metrics.jsonl"])
def test_a_run_that_left_something_keeps_its_workdir(left, tmp_path, config):
    claim_workdir(tmp_path, config, FINGERPRINTS)
    assert not is_begun(tmp_path)
    if left == "metrics.jsonl":
        MetricsFile(tmp_path, 0).add({"kind": "epoch", "step": 4, "epoch": 1})
    else:
        (tmp_path / left).mkdir(parents=True)
    assert is_begun(tmp_path)
    with pytest.raises(UserError, match="epochs: 200 there, 20 now"):
        claim_workdir(tmp_path, {**config, "epochs": 20}, FINGERPRINTS, replace_unbegun=True)
    assert json.loads((tmp_path / "config.json").read_text())["config"]["epochs"] == 200


def test_another_number_of_devices_is_refused_where_it_matters(tmp_path, config):
    claim_workdir(tmp_path, config, FINGERPRINTS | {"devices": "4"})
    assert "devices: 4 there, 2 now" in refusal(tmp_path, config, FINGERPRINTS | {"devices": "2"})
    # Whoever exports does not tell it, and it stays.
    claim_workdir(tmp_path, config, FINGERPRINTS)
    assert "devices: 4 there, 2 now" in refusal(tmp_path, config, FINGERPRINTS | {"devices": "2"})


def test_a_workdir_of_an_earlier_version_goes_on_with_any_number_of_devices(tmp_path, config):
    claim_workdir(tmp_path, config, FINGERPRINTS)
    claim_workdir(tmp_path, config, FINGERPRINTS | {"devices": "2"})
    assert "devices: 2 there, 4 now" in refusal(tmp_path, config, FINGERPRINTS | {"devices": "4"})


def lines_of(workdir):
    return list(read_metrics(workdir))


def test_metrics_are_on_disk_as_soon_as_they_are_added(tmp_path):
    file = MetricsFile(tmp_path, 0)
    assert lines_of(tmp_path) == []
    for step in (1, 2):
        file.add({"kind": "step", "step": step, "class_loss": 0.1 * step})
        assert [line["step"] for line in lines_of(tmp_path)] == list(range(1, step + 1))
    assert lines_of(tmp_path)[1] == {"kind": "step", "step": 2, "class_loss": 0.2}
    assert files_in(tmp_path) == ["metrics.jsonl"]


def test_a_resumed_run_drops_the_lines_of_work_that_is_done_again(tmp_path):
    first = MetricsFile(tmp_path, 0)
    for step in (1, 2, 3, 4):
        first.add({"kind": "step", "step": step})
    first.add({"kind": "epoch", "step": 4})
    resumed = MetricsFile(tmp_path, 3)
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 3]
    resumed.add({"kind": "step", "step": 4, "again": True})
    assert lines_of(tmp_path)[-1] == {"kind": "step", "step": 4, "again": True}
    MetricsFile(tmp_path, 4)
    assert len(lines_of(tmp_path)) == 4


def test_a_new_run_begins_with_an_empty_file(tmp_path):
    MetricsFile(tmp_path, 0).add({"kind": "step", "step": 1})
    MetricsFile(tmp_path, 0)
    assert lines_of(tmp_path) == []


def test_a_last_line_that_was_cut_is_ignored_wherever_it_was_cut(tmp_path):
    file = MetricsFile(tmp_path, 0)
    for step in (1, 2):
        file.add({"kind": "step", "step": step, "psi": 220.5})
    path = tmp_path / "metrics.jsonl"
    content = path.read_bytes()
    first = content.index(b"\n") + 1
    for length in range(first, len(content) - 1):
        path.write_bytes(content[:length])
        assert [line["step"] for line in lines_of(tmp_path)] == [1]
    # What a resumed run adds does not hang on the end of the cut line.
    MetricsFile(tmp_path, 2).add({"kind": "step", "step": 2, "psi": 3.0})
    assert [line["psi"] for line in lines_of(tmp_path)] == [220.5, 3.0]
    # Only the newline is missing: nothing is lost.
    path.write_bytes(content[:-1])
    MetricsFile(tmp_path, 2).add({"kind": "step", "step": 3, "psi": 4.0})
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 3]


def test_metrics_are_strict_json(tmp_path):
    MetricsFile(tmp_path, 0).add({"step": 1, "a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.5, "e": None})
    (text,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text) == {"step": 1, "a": None, "b": None, "c": None, "d": 0.5, "e": None}


def test_there_are_no_metrics_before_there_is_a_file(tmp_path):
    assert lines_of(tmp_path) == []


def run_lines(psi, log_every=1):
    """Metrics of two epochs of five steps."""
    lines = []
    for step in range(1, 11):
        numbers = {"class_loss": 2 / step, "accuracy": step / 12, "psi": psi * step}
        if step % log_every == 0:
            lines.append({"kind": "step", "step": step, **numbers})
        if step % 5 == 0:
            losses = {"train_loss": 2 / step, "test_loss": 3 / step}
            accuracies = {"train_accuracy": step / 12, "test_accuracy": step / 14}
            lines.append({"kind": "epoch", "step": step, "epoch": step // 5, "psi": psi * step, **losses, **accuracies})
    return lines


def drawn(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def test_curves_have_a_third_panel_for_a_penalty(tmp_path):
    for name, psi in (("without", 0.0), ("with", 220.0)):
        write_training_curves(tmp_path / f"{name}.png", run_lines(psi), "resnet44-$all$")
    without, penalised = drawn(tmp_path / "without.png"), drawn(tmp_path / "with.png")
    assert without.shape[0] == penalised.shape[0] > 300
    assert penalised.shape[1] > 1.2 * without.shape[1]
    # Something is drawn in every panel.
    for picture, n_panels in ((without, 2), (penalised, 3)):
        for panel in np.array_split(picture, n_panels, axis=1):
            assert (np.ptp(panel.astype(int), axis=-1) > 60).sum() > 100
    assert files_in(tmp_path) == ["with.png", "without.png"]


@pytest.mark.parametrize("log_every", [3, 100])
def test_curves_need_few_lines_or_none_of_steps(log_every, tmp_path):
    write_training_curves(tmp_path / "curves.png", run_lines(220.0, log_every), "few")
    drawn(tmp_path / "curves.png")


def test_curves_are_drawn_after_the_first_epoch_and_again(tmp_path):
    path = tmp_path / "new" / "curves.png"
    lines = run_lines(220.0)
    write_training_curves(path, lines[:6], "run")
    first = drawn(path)
    write_training_curves(path, lines, "run")
    assert (drawn(path) != first).any()
    assert files_in(tmp_path / "new") == ["curves.png"]
