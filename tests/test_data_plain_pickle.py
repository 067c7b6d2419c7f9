import os
import pickle
import struct

import numpy as np
import pytest

from advx_jax.data import plain_pickle
from advx_jax.data.plain_pickle import PickledBytes, PickleRefusedError, read_plain_pickle

PLAIN = {b"text": [0, 1, -5, 300, 70_000, 2**40, None, True, False, "ü", b"\xff"], "nested": {1: (1, (2, 3, 4, 5), ())}}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_comes_back_as_it_was(protocol):
    assert read_plain_pickle(pickle.dumps(PLAIN, protocol)) == PLAIN


def test_shared_objects_are_shared():
    shared = [1]
    first, second = read_plain_pickle(pickle.dumps([shared, shared], 2))
    assert first is second


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_an_array_of_bytes_comes_back(protocol):
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    read = read_plain_pickle(pickle.dumps(array, protocol))
    assert isinstance(read, PickledBytes)
    np.testing.assert_array_equal(read.values, array)


class _Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self._call = function, arguments

    def __reduce__(self):
        return self._call


def _hostile(command: str) -> dict[str, bytes]:
    """Pickles that run a shell command when Python's own unpickler reads them."""
    line = command.encode()
    system = b"cos\nsystem\n"
    text = b"X" + struct.pack("<I", len(line)) + line
    return {
        "REDUCE": pickle.dumps(_Call(os.system, command), 2),
        "REDUCE, protocol 4": pickle.dumps(_Call(os.system, command), 4),
        "inside a batch": pickle.dumps({b"data": _Call(os.system, command), b"labels": [1]}, 2),
        "eval": pickle.dumps(_Call(eval, f"__import__('os').system({command!r})"), 2),
        "text protocol": b"cos\nsystem\n(S'" + line + b"'\ntR.",
        "INST": b"(S'" + line + b"'\nios\nsystem\n.",
        "OBJ": b"(" + system + text + b"o.",
        "after a good array": b"\x80\x02cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R0" + system + text + b"\x85R.",
    }


@pytest.mark.parametrize("kind", _hostile("true").keys())
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, kind):
    marker = tmp_path / "ran"
    content = _hostile(f"touch {marker}")[kind]
    with pytest.raises(PickleRefusedError):
        read_plain_pickle(content)
    assert not marker.exists()


def test_the_hostile_pickles_are_hostile(tmp_path):
    # Else the test above could not fail.
    for number, kind in enumerate(_hostile("true")):
        marker = tmp_path / str(number)
        pickle.loads(_hostile(f"touch {marker}")[kind])
        assert marker.exists(), kind


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\x80\x02cnumpy\nndarray\n}U\x01aK\x01sb.", id="state set on a named thing"),
        pytest.param(b"\x80\x02cnumpy\nndarray\nK\x01\x85R.", id="an array made directly"),
        pytest.param(b"\x80\x02cnumpy\ndtype\nU\x01OK\x00K\x01\x87R.", id="objects as elements"),
        pytest.param(b"\x80\x02cnumpy\nload\n.", id="another function of numpy"),
        pytest.param(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.", id="another codec"),
        pytest.param(b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R.", id="too few arguments"),
        pytest.param(b"\x80\x02P1\n.", id="persistent id"),
        pytest.param(b"\x80\x02K\x01Q.", id="binary persistent id"),
        pytest.param(b"\x80\x02\x82\x01.", id="extension registry"),
        pytest.param(b"\x80\x02}" + b"(" + b")" + b"\x85" * 20_000 + b"K\x01u.", id="deep key"),
        pytest.param(b"\x80\x04)" + b"\x85" * 20_000 + b"\x8c\x01a\x93.", id="deep name"),
        pytest.param(b"\x80\x02]r\xff\xff\xff\x7fj\x00\x00\x00\x00.", id="memo hole"),
        pytest.param(b"\x80\x02T\xff\xff\xff\x7fabc.", id="longer than the file"),
        pytest.param(b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7fabc.", id="far longer than the file"),
        pytest.param(b"\x80\x02.", id="nothing at all"),
        pytest.param(b"\x80\x02e.", id="no mark"),
        pytest.param(b"\x80\x02K\x01(K\x02e.", id="append to a number"),
        pytest.param(b"\x80\x02]](K\x01K\x02u.", id="items into a list"),
        pytest.param(b"\x80\x02}(K\x01u.", id="a key without a value"),
        pytest.param(b"\x80\x02K\x01", id="no end"),
        pytest.param(b"", id="empty"),
    ],
)
def test_everything_else_is_refused(content):
    with pytest.raises(PickleRefusedError):
        read_plain_pickle(content)


def test_a_wrong_array_shape_is_refused():
    content = pickle.dumps(np.zeros((2, 3), np.uint8), 3)
    assert content.count(b"K\x02K\x03\x86") == 1
    with pytest.raises(PickleRefusedError, match="reshape"):
        read_plain_pickle(content.replace(b"K\x02K\x03\x86", b"K\x02K\x04\x86"))


def test_a_text_encoded_over_and_over_is_refused(monkeypatch):
    monkeypatch.setattr(plain_pickle, "_MOST_ENCODED", 1000)
    encode = b"c_codecs\nencode\nX\x64\x00\x00\x00" + b"a" * 100 + b"X\x06\x00\x00\x00latin1\x86R"
    assert read_plain_pickle(b"\x80\x02](" + encode * 10 + b"e.") == [b"a" * 100] * 10
    with pytest.raises(PickleRefusedError, match="far larger than any batch"):
        read_plain_pickle(b"\x80\x02](" + encode * 11 + b"e.")
