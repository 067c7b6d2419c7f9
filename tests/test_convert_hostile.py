"""Hostile, damaged and odd files: each is read, or refused in one line, and nothing in it ever runs."""

import builtins
import functools
import importlib
import io
import operator
import os
import pickle
import random
import shutil
import struct
import subprocess
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from audit import AUDIT
from pt_files import as_legacy, as_zip, flat, legacy_bytes, make_content, zip_bytes

from advx_jax.convert import pickled, read_pt
from advx_jax.convert.pickle_writer import pickle_with_tensors
from advx_jax.errors import UserError

CONTAINERS = {"legacy": legacy_bytes, "zip": zip_bytes}
SMALL_FILES = {"legacy": as_legacy(make_content()), "zip": as_zip(make_content())}
# A damaged small file must cost about as much memory as a good one, which takes 0.3 MB.
MOST_MEMORY = 30e6
FLIPS_PER_CONTAINER = 200
# Three times as deep as Python would recurse.
DEEP = 3_000
SPLICES_PER_CONTAINER = 70
CUTS_PER_CONTAINER = 70


def touch(path: str) -> None:
    """What a hostile pickle would like to run."""
    Path(path).touch()


@pytest.fixture(scope="module")
def expected_paths(tmp_path_factory):
    """Paths of the small network's variables; whatever a first reading imports by itself is over with then."""
    path = tmp_path_factory.mktemp("good") / "good.pt"
    for good in SMALL_FILES.values():
        path.write_bytes(good)
        classifier, _ = read_pt(path)
    return flat(classifier.variables).keys()


@pytest.fixture
def attempt(tmp_path, expected_paths):
    """Write bytes to a file and read it; gives the error's message, or None if the file was read."""
    path = tmp_path / "hostile.pt"

    def attempt(data: bytes) -> str | None:
        path.write_bytes(data)
        message = None
        with AUDIT as events:
            try:
                classifier, _ = read_pt(path)
            except UserError as error:
                message = str(error)
        assert [event for event in events if event[0] != "open"] == []
        assert [args[:2] for event, args in events if event == "open"] in ([(str(path), "r")], [])
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
        if message is None:
            assert flat(classifier.variables).keys() == expected_paths
        else:
            assert message.startswith(f"cannot read the network {path}: ")
            assert len(message.splitlines()) == 1
            assert message.isprintable()
            assert len(message) < 1000
        return message

    return attempt


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def evil_calls(canary: str) -> dict[str, Calls]:
    return {
        "os.system": Calls(os.system, f"touch {canary}"),
        "eval": Calls(builtins.eval, f"open({canary!r}, 'w')"),
        "exec": Calls(builtins.exec, f"open({canary!r}, 'w')"),
        "open": Calls(builtins.open, canary, "w"),
        "getattr": Calls(builtins.getattr, "", "format"),
        "import": Calls(importlib.import_module, "antigravity"),
        "Popen": Calls(subprocess.Popen, ["touch", canary]),
        "mkdir": Calls(os.mkdir, canary),
        "rmtree": Calls(shutil.rmtree, str(Path(canary).parent)),
        "partial": Calls(functools.partial, touch, canary),
        "methodcaller": Calls(operator.methodcaller, "touch"),
        "loads": Calls(pickle.loads, pickle.dumps(Calls(os.system, f"touch {canary}"))),
        "bytearray": Calls(bytearray, 2**40),
        "numpy": Calls(np.zeros, 2**40),
    }


def test_the_audit_and_the_canary_would_notice(tmp_path):
    canary = tmp_path / "canary"
    with AUDIT as events:
        pickle.loads(pickle.dumps(evil_calls(str(canary))["os.system"]))
    assert canary.exists()
    assert {"pickle.find_class", "os.system"} <= {event for event, _ in events}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("protocol", range(6))
def test_calls_are_refused(container, protocol, attempt, tmp_path):
    good, storages = pickle_with_tensors(make_content())
    for name, call in evil_calls(str(tmp_path / "canary")).items():
        evil = pickle.dumps(call, protocol=protocol)
        inner = evil[2:-1] if protocol >= 2 else evil[:-1]
        for program in (
            evil,
            pickle.dumps({"model_params": {}, "training_options": call}, protocol=protocol),
            # As one more entry of an otherwise good file; the first opcodes are PROTO, EMPTY_DICT and MARK.
            good[:4] + text("more") + inner + good[4:],
        ):
            message = attempt(CONTAINERS[container](program, storages))
            assert message is not None, name
            assert ("refused" in message) or ("protocol 2" in message) or ("opcode" in message), message
    assert not (tmp_path / "canary").exists()


def test_refused_objects_are_named(attempt):
    program = pickle.dumps(Calls(os.system, "true"), protocol=2)
    for container in CONTAINERS.values():
        assert "refused: the pickle wants the Python object 'posix.system'" in attempt(container(program, []))


@pytest.mark.parametrize("header", ["magic_number", "protocol", "system", "keys"])
def test_calls_in_the_other_pickles_of_a_legacy_file_are_refused(header, attempt, tmp_path):
    program, storages = pickle_with_tensors(make_content())
    call = Calls(os.system, f"touch {tmp_path / 'canary'}")
    assert "refused" in attempt(legacy_bytes(program, storages, **{header: call}))


def text(value: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(value.encode())) + value.encode()


def plain(value) -> bytes:
    """The opcodes of a value, without the frame around them."""
    return pickle_with_tensors(value)[0][2:-1]


# t = (t, t), sixty times: small in memory, but hashing, comparing or printing it takes for ever.
TUPLE_BOMB = b")" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60))
ORDERED = plain(OrderedDict())
OPCODES = {
    "STACK_GLOBAL": text("os") + text("system") + b"\x93" + text("true") + b"\x85R",
    "INST": b"(S'true'\nios\nsystem\n",
    "OBJ": b"(cos\nsystem\n" + text("true") + b"o",
    "NEWOBJ": b"cos\nsystem\n" + text("true") + b"\x85\x81",
    "NEWOBJ allowed": b"ccollections\nOrderedDict\n)\x81",
    "NEWOBJ_EX": b"ccollections\nOrderedDict\n)}\x92",
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "PERSID": b"Pstorage\n",
    "STRING": b"S'x'\n",
    "BYTEARRAY8": b"\x96" + struct.pack("<Q", 2**60),
    "BINBYTES8": b"\x8e" + struct.pack("<Q", 2**60),
    "LONG4": b"\x8b" + struct.pack("<i", 2**31 - 1),
    "LONG4 negative": b"\x8b" + struct.pack("<i", -5),
    "NEXT_BUFFER": b"\x97",
    "FROZENSET": b"(\x91",
    "unknown": b"\xff",
    "POP_MARK": b"1",
    "MEMOIZE": b"N\x94",
    "FRAME": b"\x95" + struct.pack("<Q", 2**62),
    "module with dots": b"ccollections.abc\nos.system\n",
    "attribute of an allowed one": b"ccollections\nOrderedDict.__init__.__globals__\n",
    "allowed name elsewhere": b"cos\nOrderedDict\n",
    "builtins": b"c__builtin__\neval\n",
    "main": b"c__main__\nsomething\n",
    "endless name": b"c" + b"a" * 100_000 + b"\n",
    "name not UTF-8": b"c\xff\xfe\n\xff\n",
    "text not UTF-8": pickle.BINUNICODE + b"\x02\x00\x00\x00\xff\xfe",
    "lone surrogate": pickle.BINUNICODE + b"\x03\x00\x00\x00\xed\xa0\x80",
    "endless text": pickle.BINUNICODE + b"\xff\xff\xff\xff",
    "call of the preprocessing": b"c__main__\ncifar10_preprocess\n)R",
    "call of a storage type": b"ctorch\nFloatStorage\nK\x05\x85R",
    "call of a text": text("os.system") + b")R",
    "call with a list": b"ccollections\nOrderedDict\n]R",
    "OrderedDict of something": b"ccollections\nOrderedDict\n" + text("x") + b"\x85R",
    "tensor of nothing": b"ctorch._utils\n_rebuild_tensor_v2\n)R",
    "parameter of nothing": b"ctorch._utils\n_rebuild_parameter\nN\x88N\x87R",
    "BUILD of a dict": b"}" + plain({"_metadata": {}}) + b"b",
    "BUILD of a list": b"]" + plain({"_metadata": {}}) + b"b",
    "BUILD of a global": b"c__main__\ncifar10_preprocess\n" + plain({"_metadata": {}}) + b"b",
    "BUILD of a class": ORDERED + plain({"__class__": None}) + b"b",
    "BUILD of more": ORDERED + plain({"_metadata": {}, "__dict__": {}}) + b"b",
    "BUILD of __dict__": ORDERED + plain({"__dict__": {"x": 1}}) + b"b",
    "BUILD of a pair": ORDERED + plain((None, {"_metadata": {}})) + b"b",
    "BUILD of None": ORDERED + b"Nb",
    "BUILD of __setstate__": ORDERED + plain({"__setstate__": {}}) + b"b",
    "APPEND to a tuple": b")Na",
    "APPENDS to a dict": b"}(Ne",
    "APPEND to nothing": b"(a",
    "SETITEM of a list": b"]" + plain("k") + b"Ns",
    "SETITEMS odd": b"}(" + plain("k") + b"u",
    "SETITEMS without mark": b"u",
    "number as key": b"}K\x01Ns",
    "tuple as key": TUPLE_BOMB + b"q\x01}h\x01Ns",
    "list as key": b"}]Ns",
    "memo miss": b"h\x63",
    "long memo miss": b"j\xff\xff\xff\xff",
    "TUPLE without mark": b"t",
    "TUPLE3 of nothing": b"(\x87",
    "open mark": b"(",
    "left over": b"NN",
    "another protocol": b"\x80\x04N",
    "persistent None": b"NQ",
    "persistent text": text("storage") + b"Q",
    "persistent short tuple": plain(("storage",)) + b"Q",
    "persistent module": plain(("module", "a", "b", "c", 1)) + b"Q",
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", OPCODES)
def test_odd_opcodes_are_refused(container, name, attempt):
    good, storages = pickle_with_tensors(make_content())
    for program in (
        b"\x80\x02" + OPCODES[name] + b".",
        good[:4] + text("more") + OPCODES[name] + good[4:],
        good[:2] + OPCODES[name] + good[2:],
    ):
        assert attempt(CONTAINERS[container](program, storages)) is not None


BOMBS = {
    "memo index": (b"Nr\xff\xff\xff\xff", ""),
    "text": (pickle.BINUNICODE + b"\xff\xff\xff\xff", "the pickle is cut off"),
    "marks": (b"(" * DEEP, "takes a value that is not there"),
    "nested lists": (b"]" * DEEP + b"a" * (DEEP - 1), ""),
    "nested tuples": (b")" + b"\x85" * DEEP, ""),
    "shared tuples": (TUPLE_BOMB, ""),
    "list in itself": (b"]q\x00h\x00a", ""),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", BOMBS)
def test_small_files_cannot_ask_for_much(container, name, attempt):
    program, said = BOMBS[name]
    tracemalloc.start()
    assert said in attempt(CONTAINERS[container](b"\x80\x02" + program + b".", []))
    assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    tracemalloc.stop()


@pytest.mark.parametrize("container", CONTAINERS)
def test_storages_and_tensors_together_cannot_claim_more_than_the_file(container, attempt):
    storage = b"\0" * 4000
    many_storages = b"".join(tensor(key=str(i), count=1000) for i in range(20))
    message = attempt(CONTAINERS[container](b"\x80\x02(" + many_storages + b"t.", [storage]))
    assert "claims 1000 elements, more than the file holds" in message
    # Each begins at another element, so that no two are one and the same.
    many = b"".join(text(str(i)) + tensor(count=1000, offset=i, shape=(900,), strides=(1,)) for i in range(20))
    program = b"\x80\x02}(" + text("model_params") + b"}(" + many + b"u" + text("training_options") + b"}u."
    message = attempt(CONTAINERS[container](program, [storage]))
    assert "'1': the tensors claim more bytes together than the file holds" in message


def test_a_pickle_of_endless_steps_is_refused(attempt, monkeypatch):
    # The real bound is a million; every call is checked here, which takes a hundred times as long.
    monkeypatch.setattr(pickled, "_MOST_OPCODES", DEEP)
    assert attempt(SMALL_FILES["zip"]) is None
    message = attempt(zip_bytes(b"\x80\x02" + b"N" * DEEP + b".", []))
    assert f"expected a pickle of at most {DEEP} steps, got a longer one" in message


def tensor(kind="FloatStorage", key="0", device="cuda:0", count=6, offset=0, shape=(2, 3), strides=(3, 1), tail=()):
    """The opcodes of a tensor, true or not."""
    reference = b"(" + text("storage") + b"ctorch\n%b\n" % kind.encode()
    reference += b"".join(plain(value) for value in (key, device, count, *tail)) + b"tQ"
    fields = b"".join(plain(value) for value in (offset, shape, strides, False)) + ORDERED
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + fields + b"tR"


CLAIMS = {
    "count too large": ({"count": 2**62}, "more than the file holds"),
    "count too large by one": ({"count": 7}, "storage '0'"),
    "count too small": ({"count": 5}, "reaches outside its storage '0' of 5 elements"),
    "count negative": ({"count": -1}, "expected the element count of storage '0', got -1"),
    "count a bool": ({"count": True}, "expected the element count of storage '0', got True"),
    "count a text": ({"count": "6"}, "expected the element count of storage '0', got '6'"),
    "count beyond 64 bits": ({"count": 2**70}, "expected the element count"),
    "another type": ({"kind": "LongStorage"}, "storage '0'"),
    "a type that is none": ({"kind": "cuda"}, "wants the Python object 'torch.cuda'"),
    "an untyped storage": ({"kind": "UntypedStorage"}, "wants the Python object 'torch.UntypedStorage'"),
    "another key": ({"key": "1"}, "storage"),
    "a key that climbs": ({"key": "../../../etc/passwd"}, "storage"),
    "a key that is no text": ({"key": 0}, "expected a reference to a storage"),
    "no device": ({"device": None}, "expected a reference to a storage"),
    "a view": ({"tail": (("1", 0, 6),)}, "expected a reference to a storage"),
    "offset negative": ({"offset": -1}, "no valid offset, shape and strides"),
    "offset too large": ({"offset": 1}, "the last at 6"),
    "offset huge": ({"offset": 2**62}, "reaches outside"),
    "offset beyond 64 bits": ({"offset": 2**64}, "no valid offset"),
    "offset a float": ({"offset": 0.0}, "no valid offset"),
    "shape too large": ({"shape": (3, 3)}, "reaches outside"),
    "shape huge": ({"shape": (2**40, 2**40)}, "no valid offset"),
    "shape huge by strides of 0": ({"shape": (2**40, 2**20), "strides": (0, 0)}, "no valid offset"),
    "shape large by strides of 0": ({"shape": (2**40,), "strides": (0,)}, "claim more bytes together"),
    "shape repeated by strides of 0": ({"shape": (4, 3), "strides": (0, 1)}, "claim more bytes together"),
    "shape negative": ({"shape": (-2, -3)}, "no valid offset"),
    "shape empty": ({"shape": (0, 2**62)}, "no valid offset"),
    "shape a list": ({"shape": [2, 3]}, "no valid offset"),
    "shape of bools": ({"shape": (True, True)}, "no valid offset"),
    "shape of many axes": ({"shape": (1,) * 100, "strides": (1,) * 100}, "no valid offset"),
    "strides negative": ({"strides": (-3, -1)}, "no valid offset"),
    "strides too large": ({"strides": (4, 1)}, "the last at 6"),
    "strides huge": ({"strides": (2**62, 2**62)}, "reaches outside"),
    "strides too few": ({"strides": (1,)}, "no valid offset"),
    "strides a text": ({"strides": "31"}, "no valid offset"),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", CLAIMS)
def test_wrong_claims_about_tensors_are_refused(container, name, attempt):
    changes, said = CLAIMS[name]
    start = b"\x80\x02}(" + text("model_params") + b"}(" + text("input_offset")
    end = b"u" + text("training_options") + b"}u."
    storages = [np.arange(6, dtype=np.float32).tobytes()]
    assert said in attempt(CONTAINERS[container](start + tensor(**changes) + end, storages))
    # The same, true: the tensor passes, and the next thing is missed.
    assert "training_options: expected" in attempt(CONTAINERS[container](start + tensor() + end, storages))


def test_one_storage_is_not_described_in_two_ways(attempt):
    program = b"\x80\x02" + tensor() + tensor(count=3, shape=(3,), strides=(1,)) + b"\x86."
    assert "described in two ways" in attempt(zip_bytes(program, [b"\0" * 24]))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"magic_number": 7}, "expected a file that PyTorch saved"),
        ({"magic_number": "x"}, "expected a file that PyTorch saved"),
        ({"protocol": 1002}, "serialization protocol 1001, got 1002"),
        ({"system": {"little_endian": False}}, "little-endian"),
        ({"system": []}, "little-endian"),
        ({"keys": ["1"]}, "list of storages"),
        ({"keys": []}, "list of storages"),
        ({"keys": ["0", "0"]}, "list of storages"),
        ({"keys": [0]}, "list of storages"),
        ({"keys": {"0": 1}}, "list of storages"),
        ({"counts": [5]}, "expected 6 elements, got 5"),
        ({"counts": [-6]}, "expected 6 elements, got -6"),
        ({"counts": [2**62]}, "expected 6 elements, got 4611686018427387904"),
        ({"tail": b"x"}, "expected the file to end after"),
    ],
)
def test_odd_legacy_files_are_refused(changes, said, attempt):
    assert said in attempt(legacy_bytes(b"\x80\x02" + tensor() + b".", [b"\0" * 24], **changes))


GOOD_PROGRAM, GOOD_STORAGES = pickle_with_tensors(make_content())


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"byteorder": b"big"}, "little-endian"),
        ({"byteorder": b"\xff\xff"}, "little-endian"),
        ({"version": None}, "version 1 to 10, got ''"),
        ({"version": b"99"}, "version 1 to 10, got '99'"),
        ({"version": b"\n\xff3" * 500}, "version 1 to 10"),
        ({"data.pkl": None}, "expected one data.pkl in the zip archive, got 0"),
        ({"data.pkl": GOOD_PROGRAM + b"x"}, "expected data.pkl to end after"),
        ({"data/3": None}, "storage '3' is not in the zip archive"),
        ({"data/3": b""}, "storage '3': expected 16 bytes, got 0"),
        ({"data/3": b"\0" * 17}, "storage '3': expected 16 bytes, got 17"),
        ({"../other/data.pkl": b""}, None),
        ({"more": b"PK\x01\x02" * 20_001}, "at most 20000 entries"),
    ],
)
def test_odd_zip_archives_are_refused(entries, said, attempt):
    message = attempt(zip_bytes(GOOD_PROGRAM, GOOD_STORAGES, entries=entries))
    assert message is None if said is None else said in message


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packed_entries_are_refused_before_they_are_unpacked(compression, attempt):
    bomb = zip_bytes(GOOD_PROGRAM, GOOD_STORAGES, compression, entries={"data/3": b"\0" * 50_000_000})
    tracemalloc.start()
    message = attempt(bomb)
    assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    tracemalloc.stop()
    assert "expected uncompressed entries in the zip archive, got a packed 'tiny/data.pkl'" in message


def test_two_networks_in_one_archive_are_refused(attempt):
    data = io.BytesIO(SMALL_FILES["zip"])
    with zipfile.ZipFile(data, "a") as archive:
        archive.writestr("other/data.pkl", GOOD_PROGRAM)
    assert "expected one data.pkl in the zip archive, got 2" in attempt(data.getvalue())


def test_two_entries_of_one_name_are_refused(attempt):
    data = io.BytesIO(SMALL_FILES["zip"])
    with zipfile.ZipFile(data, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("tiny/data.pkl", GOOD_PROGRAM)
    assert "two entries of the same name" in attempt(data.getvalue())


def patched_directory(offset: int, layout: str, value: int) -> bytes:
    """The small archive with a field of the first entry in its central directory replaced."""
    data = bytearray(SMALL_FILES["zip"])
    struct.pack_into(layout, data, data.index(b"PK\x01\x02") + offset, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("field", "offset", "layout", "value"),
    [
        ("version needed", 6, "<H", 255),
        ("encrypted", 8, "<H", 1),
        ("patched", 8, "<H", 0x20),
        ("strong encryption", 8, "<H", 0x40),
        ("method", 10, "<H", 8),
        ("unknown method", 10, "<H", 77),
        ("crc", 16, "<I", 1),
        ("packed size", 20, "<I", 1),
        ("packed size", 20, "<I", 0xFFFFFFFE),
        ("size", 24, "<I", 0xFFFFFFFE),
        ("size", 24, "<I", 0xFFFFFFFF),
        ("both sizes", 20, "<Q", 0xFFFFFFF0_FFFFFFF0),
        ("both sizes, zip64", 20, "<Q", 2**64 - 1),
        ("length of the name", 28, "<H", 0xFFFF),
        ("length of the extra field", 30, "<H", 0xFFFF),
        ("header's offset", 42, "<I", 0xFFFFFFF0),
        ("header's offset", 42, "<I", 3),
    ],
)
def test_forged_zip_directories_are_refused(field, offset, layout, value, attempt):
    tracemalloc.start()
    assert attempt(patched_directory(offset, layout, value)) is not None
    assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    tracemalloc.stop()


@pytest.mark.parametrize("offset", range(4, 22, 2))
@pytest.mark.parametrize("value", [1, 0x7FFF, 0xFFFF])
def test_forged_ends_of_zip_directories_are_refused_or_harmless(offset, value, attempt):
    data = bytearray(SMALL_FILES["zip"])
    struct.pack_into("<H", data, data.index(b"PK\x05\x06") + offset, value)
    attempt(bytes(data))


def test_entry_names_that_are_not_utf8_are_refused(attempt):
    data = bytearray(SMALL_FILES["zip"])
    start = data.index(b"PK\x01\x02")
    struct.pack_into("<H", data, start + 8, 0x800)
    data[start + 46] = 0xFF
    assert "damaged" in attempt(bytes(data))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("container", CONTAINERS)
def test_flipped_bytes_are_refused_or_harmless(container, attempt):
    rng = random.Random(1776)
    good = SMALL_FILES[container]
    outcomes = []
    for _ in range(FLIPS_PER_CONTAINER):
        data = bytearray(good)
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        outcomes.append(attempt(bytes(data)) is None)
    # The legacy format has no checksums, so that flips in the numbers go unseen.
    assert 0 < sum(outcomes) < len(outcomes)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("container", CONTAINERS)
def test_spliced_files_are_refused_or_harmless(container, attempt):
    rng = random.Random(1777)
    good = SMALL_FILES[container]
    for _ in range(SPLICES_PER_CONTAINER):
        start, end, other = (rng.randrange(len(good)) for _ in range(3))
        length = rng.randrange(1, 200)
        inserted = rng.choice([b"", rng.randbytes(length), good[other : other + length]])
        attempt(good[:start] + inserted + good[rng.choice([start, start + length, end]) :])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("container", CONTAINERS)
def test_files_that_are_cut_off_are_refused(container, attempt):
    good = SMALL_FILES[container]
    rng = random.Random(1778)
    for length in [0, 1, 2, 3, 4, 15, len(good) - 1, *rng.sample(range(len(good)), CUTS_PER_CONTAINER)]:
        assert attempt(good[:length]) is not None


@pytest.mark.usefixtures("unchecked")
def test_random_bytes_are_refused(attempt):
    rng = random.Random(1779)
    program = legacy_bytes(b"", [])[:100]
    for start in (b"", b"PK\x03\x04", b"\x80\x02", program, b"PK\x05\x06"):
        for length in (1, 22, 100, 5000):
            for _ in range(3):
                assert attempt(start + rng.randbytes(length)) is not None


@pytest.mark.usefixtures("unchecked")
def test_programs_of_random_known_opcodes_are_refused(attempt):
    rng = random.Random(1780)
    known = [b"N", b"\x88", b"\x89", b")", b"]", b"}", b"(", b"t", b"\x85", b"\x86", b"a", b"e", b"s", b"u", b"R", b"b"]
    known += [b"Q", text("storage"), text("0"), b"K\x06", ORDERED, tensor(), b"q\x00", b"h\x00"]
    known += [b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"c__main__\ncifar10_preprocess\n"]
    for _ in range(200):
        program = b"\x80\x02" + b"".join(rng.choices(known, k=rng.randrange(1, 20))) + b"."
        assert attempt(legacy_bytes(program, [b"\0" * 24])) is not None


@pytest.mark.usefixtures("unchecked")
def test_a_published_file_with_flips_and_cuts(published_pt, tmp_path):
    good = published_pt("resnet44-all").read_bytes()
    path = tmp_path / "published.pt"
    path.write_bytes(good)
    expected = flat(read_pt(path)[0].variables).keys()
    rng = random.Random(1781)
    end_of_pickles = 54_000
    for i in range(18):
        data = bytearray(good)
        if i % 3:
            data[rng.randrange(end_of_pickles if i % 3 == 1 else len(data))] ^= 1 << rng.randrange(8)
        else:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
        message = None
        with AUDIT as events:
            try:
                classifier, _ = read_pt(path)
            except UserError as error:
                message = str(error)
        assert {event for event, _ in events} <= {"open"}
        if message is None:
            assert flat(classifier.variables).keys() == expected
        assert len((message or "").splitlines()) == (1 if message else 0)
        assert message or i % 3


def test_huge_and_special_files_are_refused_unread(tmp_path):
    huge = tmp_path / "huge.pt"
    with huge.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match="expected a file of at most 4294967296 bytes, got 1099511627776"):
        read_pt(huge)
    pipe = tmp_path / "pipe.pt"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="expected a file, got something else"):
        read_pt(pipe)
    with pytest.raises(UserError, match="no such file"):
        read_pt(tmp_path / "missing.pt")
