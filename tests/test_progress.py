import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time

import numpy as np
import pytest

import advx_jax as ax
from advx_jax.progress import call_progress, in_notebook, progress, quiet_unless


@pytest.fixture
def logged(tmp_path):
    def run(interval, amounts, pause=0.0, **options):
        path = tmp_path / "log"
        with (
            path.open("w") as log,
            progress(10, "image", "explain", stream=log, log_interval=interval, **options) as update,
        ):
            for amount in amounts:
                time.sleep(pause)
                update(amount)
        return path.read_text().split("\n")[:-1]

    return run


def test_a_log_gets_whole_lines_with_what_is_done_and_left(logged):
    lines = logged(0.0, [4, 6], pause=0.01)
    assert len(lines) == 2
    assert lines[0].startswith("explain:  40% 4/10 [00:00<?,")
    assert "10/10" in lines[1]
    assert not any("\r" in line for line in lines)


def test_a_log_is_not_flooded(logged):
    assert logged(60.0, [0.001] * 10_000) == []


def test_lines_keep_their_distance_and_long_work_gets_a_last_line(logged):
    lines = logged(0.2, [1] * 10, pause=0.05)
    assert 2 <= len(lines) <= 4
    assert "10/10" in lines[-1]


def test_what_an_earlier_run_did_counts_as_done_and_not_as_speed(logged):
    (line,) = logged(0.0, [1], pause=0.1, done=8)
    assert "9/10" in line
    # One image in 0.1 s or somewhat more; with the eight of the earlier run it would be nearly 90 a second.
    assert speed(line) <= 10


def speed(line):
    """Images a second, from a line's last words."""
    number, unit = re.search(r"([\d.]+)(image/s|s/image)\]", line).groups()
    return float(number) if unit == "image/s" else 1 / float(number)


def test_what_was_spared_counts_as_done_and_not_as_speed(tmp_path):
    with (tmp_path / "log").open("w") as log, progress(10, "image", "ara", stream=log, log_interval=0.0) as update:
        update(7, spared=True)
        time.sleep(0.1)
        update(1)
        update(1.5, spared=True)
    *_, line = (tmp_path / "log").read_text().splitlines()
    assert "9.5/10" in line
    assert speed(line) <= 10


def shown_on_terminal(total, work, columns):
    """What a terminal of so many columns gets to see while `work(update)` is done."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(follower, "w") as terminal:
        with progress(total, "image", "explain", stream=terminal) as update:
            work(update)
        terminal.flush()
        shown = ""
        while not shown.endswith("\n"):
            shown += os.read(leader, 4096).decode()
    os.close(leader)
    return shown


# A terminal may not know its width; it says 0 then.
@pytest.mark.parametrize("columns", [100, 0])
def test_a_terminal_gets_a_bar_that_redraws_itself(columns):
    shown = shown_on_terminal(4, lambda update: update(4), columns)
    assert "\r" in shown
    assert "explain: 100%" in shown
    assert "4/4" in shown


def test_what_was_spared_does_not_make_a_bar_faster():
    def work(update):
        update(7, spared=True)
        for _ in range(2):
            time.sleep(0.2)
            update(1)

    shown = shown_on_terminal(10, work, 100)
    assert speed(re.findall(r"9/10 \[.*?\]", shown)[-1]) <= 5


def test_it_goes_to_standard_error_and_leaves_standard_output_alone():
    program = (
        "from advx_jax.progress import progress\n"
        "with progress(2, 'image', 'explain', log_interval=0.0) as update:\n"
        "    update(2)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "2/2" in done.stderr


@pytest.mark.parametrize("amount", [1, 1 / 3, 0.1])
def test_fractions_add_up_and_are_readable(logged, amount):
    lines = logged(0.0, [amount] * round(10 / amount))
    assert "10/10" in lines[-1]
    assert all(re.search(r" \d+(\.\d)?/10 ", line) for line in lines)


@pytest.mark.parametrize("done", [0, 7])
def test_nothing_is_shown_where_nothing_is_left_to_do(tmp_path, done):
    with (tmp_path / "log").open("w") as log, progress(done, "image", "explain", done, log, 0.0) as update:
        update(0)
    assert (tmp_path / "log").read_text() == ""


def test_a_log_shows_the_note_that_comes_with_a_line(tmp_path):
    with (tmp_path / "log").open("w") as log, progress(3, "step", "robust", stream=log, log_interval=0.0) as update:
        update(1, "loss 2.303")
        update(1, "loss 2.250, ψ 220")
    first, second = (tmp_path / "log").read_text().splitlines()
    assert first.endswith("], loss 2.303")
    assert second.endswith("], loss 2.250, ψ 220")
    assert "2/3" in second


def test_a_log_shows_a_note_until_there_is_another(tmp_path):
    with (tmp_path / "log").open("w") as log, progress(4, "step", "robust", stream=log, log_interval=0.0) as update:
        update(1)
        update(1, "loss 2.303")
        update(1)
    first, second, third = (tmp_path / "log").read_text().splitlines()
    assert first.endswith("]")
    assert second.endswith("], loss 2.303")
    assert third.endswith("], loss 2.303")


def test_a_log_gets_its_last_line_once(logged):
    lines = logged(0.02, [1] * 10 + [0], pause=0.03)
    assert sum("10/10" in line for line in lines) == 1


def test_a_bar_shows_a_note_until_there_is_another():
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    with os.fdopen(follower, "w") as terminal:
        with progress(3, "step", "robust", stream=terminal) as update:
            update(1, "loss 2.303")
            update(2)
        terminal.flush()
        shown = ""
        while not shown.endswith("\n"):
            shown += os.read(leader, 4096).decode()
    os.close(leader)
    last = shown.rsplit("\r", 2)[-2]
    assert "3/3" in last
    assert "loss 2.303" in last


class Shell:
    """What IPython gives as its shell: with a kernel in a notebook, without on a terminal."""

    def __init__(self, **fields):
        vars(self).update(fields)


@pytest.fixture
def notebook(monkeypatch):
    """Let this be the process of a notebook without widgets, where short calls show their bar too."""
    monkeypatch.setitem(sys.modules, "IPython", Shell(get_ipython=lambda: Shell(kernel=object())))
    monkeypatch.setattr("advx_jax.progress._SHORT_SECONDS", 0.0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_a_notebook_is_told_from_other_processes(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_notebook()
    for shell, expected in [(None, False), (Shell(), False), (Shell(kernel=object()), True)]:
        monkeypatch.setitem(sys.modules, "IPython", Shell(get_ipython=lambda shell=shell: shell))
        assert in_notebook() is expected


def call(shown, amounts=(1, 2.5), spared=0.5):
    told = []
    with call_progress(4, "predict", shown, told.append) as update:
        for amount in amounts:
            update(amount)
        update(spared, spared=True)
    assert told == [*amounts, spared]


def test_calls_from_python_show_a_bar_in_a_notebook_only(notebook, capsys, monkeypatch):
    call(None)
    shown = capsys.readouterr().err
    assert "predict: 100%|" in shown
    assert "4/4 [" in shown
    call(True)
    assert "4/4" in capsys.readouterr().err
    call(False)
    assert capsys.readouterr().err == ""
    monkeypatch.delitem(sys.modules, "IPython")
    call(None)
    assert capsys.readouterr().err == ""


def test_calls_from_python_show_a_bar_on_a_terminal_where_asked_for(monkeypatch):
    monkeypatch.setattr("advx_jax.progress._SHORT_SECONDS", 0.0)
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        call(None)
        call(True)
        terminal.write("end\n")
        terminal.flush()
        shown = ""
        while not shown.endswith("end\r\n"):
            shown += os.read(leader, 4096).decode()
    os.close(leader)
    assert len(re.findall(r"4/4 \[", shown)) == 1


def test_calls_that_are_soon_over_show_nothing(notebook, capsys, monkeypatch):
    monkeypatch.setattr("advx_jax.progress._SHORT_SECONDS", 60.0)
    call(True)
    assert capsys.readouterr().err == ""


def test_what_a_call_calls_itself_has_no_bar_of_its_own(notebook, capsys):
    with call_progress(4, "explain", None) as update:
        call(None)
        with progress(3, "image", "inner") as inner:
            inner(3)
        update(4)
    shown = capsys.readouterr().err
    assert "explain" in shown
    assert "predict" not in shown
    assert "inner" not in shown
    # Afterwards, all is as before.
    call(None)
    assert "predict" in capsys.readouterr().err


def test_what_shows_progress_by_itself_is_as_quiet_as_the_call_that_it_serves(notebook, capsys):
    for shown in (None, False):
        with quiet_unless(shown), progress(2, "image", "explain") as update:
            update(2)
    assert len(re.findall(r"2/2 \[", capsys.readouterr().err)) == 1


@pytest.mark.slow
def test_all_long_calls_show_their_bars(notebook, capsys):
    weights = np.random.default_rng(0).normal(size=(48, 3)).astype(np.float32)

    def model(images):
        return images.reshape(len(images), -1) @ weights

    x = np.random.default_rng(1).uniform(size=(4, 4, 4, 3)).astype(np.float32)
    y, ball = ax.predict(model, x).classes, {"eps": 0.01, "norm": "L2", "steps": 2}
    assert "predict: 100%" in capsys.readouterr().err
    explanation = ax.attacks.EXPLANATION.with_settings(steps=2)
    calls = {
        "predict": lambda **more: ax.accuracy(model, x, y, **more),
        "robust accuracy": lambda **more: ax.robust_accuracy(model, x, y, ax.attacks.PGD(**ball), **more),
        "distances": lambda **more: ax.boundary_distances(model, x, y, ax.attacks.FMN(norm="L2", steps=2), **more),
        "explain": lambda **more: ax.explain_images(model, x, attack=explanation, **more),
    }
    for description, function in calls.items():
        function()
        (last,) = re.findall(r"^.*4/4 \[.*$", capsys.readouterr().err, re.MULTILINE)[-1:]
        assert f"{description}: 100%" in last
        function(progress=False)
        assert capsys.readouterr().err == ""
