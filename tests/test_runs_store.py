"""The append-only store: nothing that was finished is lost, whoever is killed, and several may write at once."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from advx_jax.errors import UserError
from advx_jax.reports.results_json import fingerprint
from advx_jax.runs.measurement import Pass, complete
from advx_jax.runs.store import Rules, Store


def head(**settings):
    return {"format": 1, "command": "count", "settings": settings, "fingerprint": fingerprint(settings)}


def opened(folder, overwrite=False, rules=None, **settings):
    return Store(folder / "counts.jsonl", head(**settings), overwrite, rules)


def test_what_was_appended_is_there_again(tmp_path):
    with opened(tmp_path) as store:
        store.append({"a": {"n": 1}, "b": {"n": 2}}, {"x": 0.5})
        store.append({"a": {"n": 3}}, {"x": 0.25})
    with opened(tmp_path) as store:
        assert store.records == {"a": {"n": 3}, "b": {"n": 2}}
        assert store.seconds == {"x": 0.75}
    assert [path.name for path in tmp_path.iterdir()] == ["counts.jsonl"]


def test_environments_are_those_in_which_records_were_computed(tmp_path):
    def at(place):
        return Store(tmp_path / "counts.jsonl", head() | {"environment": {"device": place}})

    with at("gpu") as store:
        store.append({"a": {"n": 1}})
        store.append({"b": {"n": 2}})
        assert store.environments == [{"device": "gpu"}]
    with at("cpu") as store:
        assert store.environments == [{"device": "gpu"}]
        store.append({"c": {"n": 3}})
        store.append({"d": {"n": 4}})
        with at("tpu") as beside:
            beside.append({"e": {"n": 5}})
        store.refresh()
        assert store.environments == [{"device": place} for place in ("gpu", "cpu", "tpu")]
    text = (tmp_path / "counts.jsonl").read_text()
    assert [text.count(place) for place in ("gpu", "cpu", "tpu")] == [1, 1, 0]
    with at("gpu") as store:
        store.append({"f": {"n": 6}})
    assert (tmp_path / "counts.jsonl").read_text().count("gpu") == 2


def test_what_an_earlier_release_left_was_computed_there(tmp_path):
    older = head() | {"environment": {"device": "gpu"}, "records": {"a": {"n": 1}}}
    rules = Rules(older=lambda: older)
    with Store(tmp_path / "counts.jsonl", head() | {"environment": {"device": "cpu"}}, rules=rules) as store:
        assert store.environments == [{"device": "gpu"}]
        store.append({"b": {"n": 2}})
        assert store.environments == [{"device": "gpu"}, {"device": "cpu"}]


def test_a_chunk_costs_the_same_however_much_is_there(tmp_path):
    with opened(tmp_path) as store:
        sizes = []
        for chunk in range(50):
            before = (tmp_path / "counts.jsonl").stat().st_size
            store.append({f"{chunk:02}-{row}": {"n": row} for row in range(20)})
            sizes.append((tmp_path / "counts.jsonl").stat().st_size - before)
    assert max(sizes) - min(sizes) <= 1


def test_what_was_half_written_is_dropped_and_the_rest_stays(tmp_path):
    path = tmp_path / "counts.jsonl"
    with opened(tmp_path) as store:
        store.append({"a": {"n": 1}})
        store.append({"b": {"n": 2}})
    whole = path.read_bytes()
    beginning = whole[: whole.rindex(b"\n", 0, -1) + 1]
    for end in range(len(beginning), len(whole)):
        path.write_bytes(whole[:end])
        with opened(tmp_path) as store:
            assert store.records == {"a": {"n": 1}}
            store.append({"c": {"n": 3}})
        with opened(tmp_path) as store:
            assert store.records == {"a": {"n": 1}, "c": {"n": 3}}


@pytest.mark.parametrize(
    "line",
    [
        b"\x00\x00\x00",
        b"[1]",
        b"{",
        b'{"serial": "x", "records": {"b": {}}}',
        b'{"serial": 9, "records": [1]}',
        b'{"serial": 9, "records": {"b": 3}}',
        b'{"serial": 9, "claims": 3, "seconds": {"x": "y"}}',
        b"[" * 100_000,
        b'{"serial": 9, "seconds": {"x": 1' + b"0" * 400 + b'}, "records": {"b": {}}}',
    ],
)
def test_a_damaged_line_costs_what_is_in_it_and_no_more(line, tmp_path):
    with opened(tmp_path) as store:
        store.append({"a": {"n": 1}})
    path = tmp_path / "counts.jsonl"
    path.write_bytes(path.read_bytes() + line + b'\n{"serial": 10, "records": {"c": {"n": 3}}}\n')
    with opened(tmp_path) as store:
        assert store.records == {"a": {"n": 1}, "c": {"n": 3}}
        assert store.seconds == {}


def test_records_that_are_not_what_they_should_be_are_made_again(tmp_path):
    rules = Rules(accepts=lambda key, record: record.get("n") != 2)
    with opened(tmp_path, rules=rules) as store:
        store.append({"a": {"n": 1}, "b": {"n": 2}})
        assert set(store.records) == {"a"}


def test_no_number_is_written_that_json_does_not_have(tmp_path):
    with opened(tmp_path) as store:
        with pytest.raises(ValueError, match="JSON"):
            store.append({"a": {"n": float("inf")}})
        store.append({"b": {"n": 1}})
    with opened(tmp_path) as store:
        assert store.records == {"b": {"n": 1}}


def test_results_of_other_settings_are_refused_or_replaced(tmp_path):
    forgotten = []
    rules = Rules(forget=lambda records: forgotten.append(dict(records)))
    with opened(tmp_path, eps=0.1) as store:
        store.append({"a": {"n": 1}})
    with pytest.raises(UserError, match=r"eps=0.1 there, 0.2 now.*--overwrite"):
        opened(tmp_path, eps=0.2)
    with opened(tmp_path, overwrite=True, rules=rules, eps=0.2) as store:
        assert store.records == {}
        assert forgotten == [{"a": {"n": 1}}]
        with pytest.raises(UserError, match="another process makes results of other settings"):
            opened(tmp_path, overwrite=True, eps=0.3)
    with opened(tmp_path, overwrite=True, eps=0.2) as store:
        assert store.records == {}


def test_what_differs_is_named_also_where_it_is_no_more_or_lies_deeper(tmp_path):
    with opened(tmp_path, targets="top5", methods={"a": {"steps": 3, "rule": "x"}, "b": 1}):
        pass
    with pytest.raises(UserError, match=r"\(methods\.a\.steps=3 there, 4 now; targets=top5 there, nothing now\)"):
        opened(tmp_path, methods={"a": {"steps": 4, "rule": "x"}, "b": 1})
    with pytest.raises(UserError, match=r"\(methods=a\+b there, nothing now\)"):
        opened(tmp_path, targets="top5")


def test_results_without_their_records_are_kept_or_replaced(tmp_path):
    (tmp_path / "counts.json").write_text("{}")
    rules = Rules(results=tmp_path / "counts.json", forget=lambda records: (tmp_path / "counts.json").unlink())
    with pytest.raises(UserError, match=r"counts\.json is there without its records \(counts\.jsonl\).*--overwrite$"):
        opened(tmp_path, rules=rules)
    assert (tmp_path / "counts.json").exists()
    with opened(tmp_path, overwrite=True, rules=rules) as store:
        store.append({"a": {"n": 1}})
    assert not (tmp_path / "counts.json").exists()
    (tmp_path / "counts.json").write_text("{}")
    with opened(tmp_path, rules=rules) as store:
        assert store.records == {"a": {"n": 1}}


def test_what_is_no_store_is_refused(tmp_path):
    (tmp_path / "counts.jsonl").write_text('{"format": 7}\n')
    with pytest.raises(UserError, match="expected results of format 1"):
        opened(tmp_path)
    (tmp_path / "counts.jsonl").write_text("precious\n")
    with pytest.raises(UserError, match="expected results of format 1"):
        opened(tmp_path)


def test_records_of_an_earlier_release_are_taken_over(tmp_path):
    rules = Rules(older=lambda: head(eps=0.1) | {"records": {"a": {"n": 1}}, "seconds": {"x": 2.0}})
    with opened(tmp_path, rules=rules, eps=0.1) as store:
        assert store.records == {"a": {"n": 1}}
    with opened(tmp_path, rules=rules, eps=0.1) as store:
        assert store.records == {"a": {"n": 1}}
        assert store.seconds == {"x": 2.0}
    with pytest.raises(UserError, match=r"eps=0\.1 there, 0\.2 now"):
        opened(tmp_path, rules=rules, eps=0.2)


def test_two_writers_at_once_know_of_each_other(tmp_path):
    keys = [str(number) for number in range(10)]
    # Never all of it at once: one that comes later is to have its share.
    with opened(tmp_path) as alone:
        assert alone.claim(keys, alone.records.__contains__) == keys[:8]
    with opened(tmp_path) as first, opened(tmp_path) as second:
        done = [first.records.__contains__, second.records.__contains__]
        mine = first.claim(keys, done[0])
        # Half of it: the other one is there, too.
        assert mine == keys[:5]
        assert second.claim(keys, done[1]) == keys[5:]
        assert first.claim(keys[5:], done[0]) == []
        second.release()
        assert first.claim(keys[5:], done[0], at_once=2) == keys[5:9]  # half of five, and two at a time
        second.append({"9": {"n": 9}})
        assert first.claim(["9"], done[0]) == []
        assert first.records == {"9": {"n": 9}}
        first.append({"9": {"n": 10}})
    with opened(tmp_path) as store:
        # The later one holds, whichever file it is in.
        assert store.records["9"] == {"n": 10}
        assert len(list(tmp_path.glob("counts*.jsonl"))) == 2


def test_what_is_finished_by_others_is_waited_for_and_not_done_again(tmp_path):
    done, told = [], []
    with opened(tmp_path) as first, opened(tmp_path) as second:
        assert first.claim(["a", "b"], first.records.__contains__, at_once=2) == ["a", "b"]

        def measure(keys):
            # Meanwhile the first one finishes one of its two, and gives up the other.
            done.extend(keys)
            first.append({"a": {"n": 1}})
            first.release()
            yield {key: {"n": 2} for key in keys}

        step = Pass(["a", "b", "c"], second.records.__contains__, measure, 1)
        complete(second, step, lambda: told.append(set(second.records)))
        assert done == ["c", "b"]
        assert told == [{"a", "b", "c"}]
        assert second.records == {"a": {"n": 1}, "b": {"n": 2}, "c": {"n": 2}}


def test_an_interrupt_that_is_lost_in_a_callback_is_answered_after_the_chunk(tmp_path):
    def measure(keys):
        for key in keys:
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)
            yield {key: {"n": 1}}

    with opened(tmp_path) as store:
        with pytest.raises(KeyboardInterrupt):
            complete(store, Pass(["a", "b"], store.records.__contains__, measure, 1))
        assert list(store.records) == ["a"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


WRITER = """
import sys, time
from pathlib import Path
from advx_jax.runs.store import Store
from advx_jax.runs.measurement import Pass, complete
name, folder, first, last, pause = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:5]), float(sys.argv[5])
head = {"format": 1, "settings": {}, "fingerprint": ""}
keys = [str(key) for key in range(first, last)]
def measure(keys):
    for key in keys:
        time.sleep(pause)
        yield {key: {"by": name, "text": "x" * 3000}}
with Store(folder / "counts.jsonl", head) as store:
    complete(store, Pass(keys, store.records.__contains__, measure, 1))
    with store.final():
        (folder / "final.json").write_text(" ".join(sorted(store.records)))
"""


def writer(name, folder, first, last, pause=0.001):
    arguments = [sys.executable, "-c", WRITER, name, str(folder), str(first), str(last), str(pause)]
    return subprocess.Popen(arguments, env={**os.environ, "JAX_PLATFORMS": "cpu"})


@pytest.mark.parametrize("overlap", [0, pytest.param(60, marks=pytest.mark.slow)])
def test_several_processes_share_the_work_and_the_last_one_lists_all(overlap, tmp_path):
    processes = [writer(str(n), tmp_path, n * (60 - overlap), n * (60 - overlap) + 60, 0.01) for n in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    n = 60 if overlap else 180
    assert (tmp_path / "final.json").read_text().split() == sorted(str(key) for key in range(n))
    lines = [json.loads(line) for path in tmp_path.glob("*.jsonl") for line in path.read_text().splitlines()]
    keys = [key for line in lines for key in line.get("records", ())]
    assert len(keys) == len(set(keys)) == n


@pytest.mark.slow
def test_a_killed_process_loses_nothing_and_blocks_nobody(tmp_path):
    path = tmp_path / "counts.jsonl"
    kept = 0
    for _ in range(8):
        process = writer("killed", tmp_path, 0, 5000, 0.0)
        while process.poll() is None and (path.stat().st_size if path.exists() else 0) < 20_000 * (kept // 5 + 1):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        text = path.read_bytes()
        lines = [json.loads(line) for line in text[: text.rindex(b"\n") + 1].splitlines()]
        now = sum(len(line.get("records", ())) for line in lines)
        assert now >= kept
        kept = now
    last = writer("last", tmp_path, 0, 5000, 0.0)
    assert last.wait(60) == 0
    assert len((tmp_path / "final.json").read_text().split()) == 5000
    assert [found.name for found in tmp_path.glob("*.jsonl")] == ["counts.jsonl"]
