"""Places that cannot be written to are refused before any work; locks go with their process."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from advx_jax.errors import UserError
from advx_jax.files import check_output_file, check_output_folder, locked, remove_temporaries, scratch_folder


@pytest.fixture
def places(tmp_path):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    return tmp_path


# Nobody, not even the superuser, writes into /proc.
@pytest.mark.parametrize("place", ["file", "file/below", "file/below/further", "/proc/results", "x" * 300])
def test_a_folder_that_cannot_be_written_to_is_refused(place, places):
    with pytest.raises(UserError, match="expected a folder that can be written to, got"):
        check_output_folder(places / place)
    assert (places / "file").read_text() == "precious"


@pytest.mark.parametrize("place", ["folder", "file/below.json", "/proc/results.json", os.devnull])
def test_a_file_that_cannot_be_written_is_refused(place, places):
    with pytest.raises(UserError, match="expected a f"):
        check_output_file(places / place)


def test_what_can_be_written_is_let_pass(places):
    check_output_folder(places / "new" / "below")
    assert list((places / "new" / "below").iterdir()) == []
    check_output_file(places / "file")
    check_output_file(places / "other" / "new.json")
    assert (places / "file").read_text() == "precious"


def test_what_killed_processes_left_half_written_goes_and_nothing_else(tmp_path):
    (tmp_path / "broken").mkdir()
    stay = [tmp_path / name for name in (".mine", "0-cat.png", ".x-abcdefgh.tmpfoo", "broken/3.npy")]
    for path in stay:
        path.write_text("")
    for folder in (tmp_path, tmp_path / "broken"):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder / "3.npy")], stdout=subprocess.PIPE, text=True
        )
        process.stdout.readline()
        process.kill()
        process.communicate()
    (tmp_path / ".3-dog-0123abcd.old").mkdir()
    (tmp_path / ".3-dog-0123abcd.old" / "_input.png").write_text("")
    assert len(list(tmp_path.rglob("*"))) == len(stay) + 5
    remove_temporaries(tmp_path)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(stay)


WRITER = """
import sys, time
from pathlib import Path
from advx_jax.files import atomic_write
with atomic_write(Path(sys.argv[1])):
    print(flush=True)
    time.sleep(60)
"""


def test_a_lock_keeps_others_out_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / ".lock"
    with locked(path) as free:
        assert free
        with locked(path, wait=False) as again:
            assert not again
        assert path.exists()
    assert not path.exists()
    with locked(path, wait=False) as free:
        assert free


def test_whoever_waits_gets_it_and_never_two_at_once(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(50):
            with locked(tmp_path / ".lock"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 200
    assert max(most) == 1


def test_a_killed_process_holds_nothing(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom advx_jax.files import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / ".lock")], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    with locked(tmp_path / ".lock", wait=False) as free:
        assert not free
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with locked(tmp_path / ".lock", wait=False) as free:
        assert free


def test_a_scratch_folder_goes_and_takes_what_was_killed_with_it(tmp_path):
    (tmp_path / ".work-killed" / "below").mkdir(parents=True)
    (tmp_path / ".workshop").mkdir()

    def enter():
        with scratch_folder(tmp_path, ".work"):
            pass

    with scratch_folder(tmp_path, ".work") as scratch:
        (scratch / "half").write_text("")
        assert not (tmp_path / ".work-killed").exists()
        waiting = threading.Thread(target=enter)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        assert (scratch / "half").exists()
    waiting.join()
    assert (tmp_path / ".workshop").exists()
    assert not scratch.exists()
