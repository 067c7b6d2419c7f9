"""Lanes are used only where they compute the same as one: a lane that answers wrongly is found, and one computes."""

import importlib.metadata
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import jax
import pytest
from networks import random_classifier

from advx_jax.analysis import lane_check, workers
from advx_jax.analysis.lane_check import lanes_agree
from advx_jax.errors import UserError
from advx_jax.messages import say_once
from advx_jax.networks.classifier import Provenance
from advx_jax.networks.files import save_network
from advx_jax.training import parallel

RIGHT_ANSWER = lane_check._answer
# Before a command: a lane that answers wrongly whenever another computes beside it, by a bit.
WRONG_LANE = """
import runpy, sys, threading
from advx_jax.analysis import lane_check
right = lane_check._answer
def answer(*start):
    found = right(*start)
    if threading.current_thread() is threading.main_thread():
        return found
    return bytes([found[0] ^ 1]) + found[1:]
lane_check._answer = answer
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache without verdicts, and a process that remembers none."""
    monkeypatch.setenv("ADVX_CACHE", str(tmp_path / "cache"))
    lanes_agree.cache_clear()
    say_once.cache_clear()
    yield tmp_path / "cache" / "lanes"
    lanes_agree.cache_clear()
    say_once.cache_clear()


def two_lanes():
    return tuple(jax.local_devices()[:1] * 2)


def wrong_by_a_bit(monkeypatch):
    """Let the first lane that computes beside others answer wrongly; all others, and each alone, are right."""
    taken = threading.Lock()

    def answer(*start):
        found = RIGHT_ANSWER(*start)
        if threading.current_thread() is not threading.main_thread() and taken.acquire(blocking=False):
            return found[:-1] + bytes([found[-1] ^ 1])
        return found

    monkeypatch.setattr(lane_check, "_answer", answer)


class Accelerator:
    """What a machine without one can still ask of one."""

    platform = "cuda"
    __class__ = property(lambda self: jax.Device)


def fail(*_):
    raise AssertionError("the self-test ran again")


def test_lanes_of_this_machine_agree_and_are_tried_once(cache, monkeypatch):
    """With a supported jaxlib; if this fails, jaxlib is wrong on this processor, and lanes are not used."""
    assert lanes_agree(two_lanes())
    (verdict,) = cache.iterdir()
    found = {"agree": True, "jaxlib": importlib.metadata.version("jaxlib"), "lanes": 2}
    assert json.loads(verdict.read_text()) == found
    monkeypatch.setattr(lane_check, "_answer", fail)
    assert lanes_agree(two_lanes())
    # As another process: from the file alone.
    lanes_agree.cache_clear()
    assert lanes_agree(two_lanes())
    verdict.write_text('{"agree": fal')
    lanes_agree.cache_clear()
    with pytest.raises(AssertionError, match="ran again"):
        lanes_agree(two_lanes())


def test_a_wrong_lane_is_found_and_one_lane_computes(cache, monkeypatch, capsys):
    monkeypatch.setenv("ADVX_LANES", "2")
    wrong_by_a_bit(monkeypatch)
    assert workers.lanes() == jax.local_devices()[:1]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: jaxlib {importlib.metadata.version('jaxlib')} computes wrong numbers")
    assert "in 2 lanes at once" in line
    assert "one lane computes instead" in line
    (verdict,) = cache.iterdir()
    assert json.loads(verdict.read_text())["agree"] is False
    # Said once, and believed by the next process, which says it too.
    monkeypatch.setattr(lane_check, "_answer", fail)
    assert len(workers.lanes()) == 1
    assert capsys.readouterr().err == ""
    lanes_agree.cache_clear()
    say_once.cache_clear()
    threads = set()
    done = workers.spread(lambda images: images, range(5), lambda worker, task: threads.add(threading.get_ident()))
    assert len(list(done)) == 5
    assert len(threads) == 1
    assert capsys.readouterr().err == f"{line}\n"


def test_a_lane_alone_needs_no_test(monkeypatch):
    monkeypatch.setattr(lane_check, "_answer", fail)
    monkeypatch.setenv("ADVX_LANES", "1")
    assert workers.lanes() == jax.local_devices()[:1]
    parallel.check_devices()


def test_accelerators_are_not_touched(monkeypatch):
    accelerators = [Accelerator()] * 2
    monkeypatch.setattr(lane_check, "_answer", fail)
    monkeypatch.setattr(jax, "local_devices", lambda: accelerators)
    monkeypatch.setenv("ADVX_LANES", "4")
    assert workers.lanes() == accelerators
    assert workers.least_rows() == 1
    parallel.check_devices()


def test_a_cache_that_cannot_be_written_does_not_matter(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ADVX_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(lane_check, "_answer", lambda *_: b"")
    assert lanes_agree(two_lanes())


def test_verdicts_are_kept_apart(cache, monkeypatch):
    monkeypatch.setattr(lane_check, "_answer", lambda *_: b"")

    def n_verdicts():
        lanes_agree.cache_clear()
        assert lanes_agree(two_lanes())
        return len(list(cache.iterdir()))

    assert n_verdicts() == n_verdicts() == 1
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    assert n_verdicts() == 2
    monkeypatch.setattr(lane_check, "processor_features", lambda: "flags : another")
    assert n_verdicts() == 3
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.99")
    assert n_verdicts() == 4
    assert lanes_agree(two_lanes() * 2)
    assert len(list(cache.iterdir())) == 5


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_number_of_lanes_is_checked(value, monkeypatch):
    monkeypatch.setenv("ADVX_LANES", value)
    with pytest.raises(UserError, match=f"expected ADVX_LANES to be a whole number from 1, got '{value}'"):
        workers.lanes()


def test_number_of_lanes_is_the_environments_or_that_of_the_cores(monkeypatch):
    monkeypatch.setattr(lane_check, "_answer", lambda *_: b"")
    monkeypatch.setenv("ADVX_LANES", "3")
    assert len(workers.lanes()) == 3
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("ADVX_LANES")
        else:
            monkeypatch.setenv("ADVX_LANES", unset)
        assert len(workers.lanes()) == cores


def call(folder: Path, module: str, *arguments: str, lanes: int = 2, devices: int = 1, wrong: bool = True):
    environment = {**os.environ, "ADVX_LANES": str(lanes), "JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    start = ["-c", WRONG_LANE, module] if wrong else ["-m", module]
    command = [sys.executable, *start, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
def test_command_explains_in_one_lane_with_the_right_pictures_and_one_line(tmp_path):
    save_network(tmp_path / "tiny.safetensors", random_classifier(), Provenance(name="tiny"))
    arguments = ("--model=tiny.safetensors", "--n_images=3", "--steps=5")
    guarded = call(tmp_path, "advx_jax.explain", *arguments, "--output=guarded")
    assert guarded.returncode == 0, guarded.stderr
    warnings = [line for line in guarded.stderr.splitlines() if "wrong numbers" in line]
    assert len(warnings) == 1
    alone = call(tmp_path, "advx_jax.explain", *arguments, "--output=alone", lanes=1, wrong=False)
    assert alone.returncode == 0, alone.stderr
    assert "wrong numbers" not in alone.stderr
    pictures = [path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("*.png")]
    assert len(pictures) >= 36
    for path in pictures:
        assert (tmp_path / "guarded" / path).read_bytes() == (tmp_path / "alone" / path).read_bytes(), path


@pytest.mark.slow
def test_training_on_several_cpu_devices_is_refused_where_they_are_wrong(tmp_path):
    smoke = ("advx_jax.train", "--config=configs/smoke.py", "--workdir=run")
    refused = call(tmp_path, *smoke, devices=2)
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: expected one CPU device in a process, got 2: jaxlib ")
    assert "unset JAX_NUM_CPU_DEVICES" in line
    assert not (tmp_path / "run").exists()
