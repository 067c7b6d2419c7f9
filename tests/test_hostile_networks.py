"""Networks that somebody else made, or that a disk has damaged: read as they are, or refused in one line."""

import dataclasses
import json
import os
import random
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from flax import traverse_util
from networks import TINY, random_classifier
from processes import call
from pt_files import as_zip, flat, make_content, make_tensors

from advx_jax.convert import read_pt
from advx_jax.errors import UserError
from advx_jax.names import safe_name
from advx_jax.networks.classifier import Classifier, Provenance
from advx_jax.networks.files import FORMAT, load_network, read_architecture, save_network
from advx_jax.networks.registry import manifest
from advx_jax.networks.tensor_file import tensor_bytes

HOSTILE_NAMES = [
    "../../evil",
    "/abs/olute",
    "a\x1b[31m\x1b]0;title\x07",
    "a\nb\r\nc",
    "safe\u202egnp.exe",
    "a\0b",
    "x" * 5000,
    "\udfff\ud800",
    "CON",
    "nul.txt",
    "C:\\evil",
    "~",
    "..",
    "",
    "\u3164",
    "-rf",
]
MOST_MEMORY = 40e6
FLIPS = 150


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A file as this version writes it, and its network."""
    path = tmp_path_factory.mktemp("good") / "tiny.safetensors"
    classifier, provenance = random_classifier(), Provenance("tiny", (("l2_min", True),), 2.5, "ab" * 32, 7)
    save_network(path, classifier, provenance)
    return path.read_bytes(), classifier, provenance


def parts(data):
    """Header and numbers of a file."""
    (length,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header, numbers):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def undigested(data, **metadata):
    """The file as an earlier version wrote it, with other metadata; `...` leaves one out."""
    header, numbers = parts(data)
    del header["__metadata__"]["sha256"]
    changed = {**header["__metadata__"], **metadata}
    header["__metadata__"] = {key: value for key, value in changed.items() if value is not ...}
    return joined(header, numbers)


def refusal(folder, data):
    """The one line in which a file is refused."""
    path = folder / "hostile.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        load_network(path)
    message = str(caught.value)
    assert message.startswith(f"cannot read the network {path}: ")
    assert message.isprintable()
    assert len(message) < 2000
    return message


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=range(len(HOSTILE_NAMES)))
def test_names_out_of_files_are_safe_to_print_and_as_a_path(name, good, tmp_path):
    provenance = json.dumps({"name": name, "options": {}})
    (tmp_path / "named.safetensors").write_bytes(undigested(good[0], provenance=provenance))
    found = load_network(tmp_path / "named.safetensors")[1].name
    assert found.isprintable()
    assert found == safe_name(found) == safe_name(name)
    for target in (tmp_path / found, tmp_path / f"{found}-best"):
        target.mkdir()
        assert target.resolve().parent == tmp_path.resolve()
    assert found.casefold().partition(".")[0] not in ("con", "nul")


def test_a_hostile_name_cannot_lead_a_command_out_of_its_folder(good, tmp_path):
    work = tmp_path / "deep" / "work"
    work.mkdir(parents=True)
    provenance = json.dumps({"name": "../../evil\x1b[31m", "options": {}})
    (work / "net.safetensors").write_bytes(undigested(good[0], provenance=provenance))
    flags = ("--model=net.safetensors", "--data=sample", "--n_images=1", "--steps=2")
    status, out, err = call(work, "ara", *flags)
    assert status == 0, err
    assert "\x1b" not in out + err
    assert {path.name for path in tmp_path.iterdir()} == {"deep"}
    assert {path.name for path in work.iterdir()} == {"net.safetensors", "cache", "ara"}
    assert {path.name for path in (work / "ara").iterdir()} == {"_.._evil__31m"}


def test_names_in_the_manifest_are_safe():
    for name, entry in manifest().items():
        assert safe_name(name) == name
        assert safe_name(entry.file) == entry.file


def test_networks_of_earlier_versions_are_read(good, tmp_path):
    (tmp_path / "older.safetensors").write_bytes(undigested(good[0]))
    classifier, provenance = load_network(tmp_path / "older.safetensors")
    assert classifier.fingerprint() == good[1].fingerprint()
    assert provenance == good[2]


@pytest.mark.usefixtures("unchecked")
def test_a_flipped_bit_is_never_a_wrong_network(good, tmp_path):
    data, rng, path = good[0], random.Random(7), tmp_path / "flipped.safetensors"
    refused = 0
    for _ in range(FLIPS):
        flipped = bytearray(data)
        # As many in the header as in the numbers, which are longer.
        end = rng.choice([len(data), 8 + struct.unpack_from("<Q", data)[0]])
        flipped[rng.randrange(end)] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            classifier, provenance = load_network(path)
        except UserError:
            refused += 1
        else:
            assert classifier.fingerprint() == good[1].fingerprint()
            assert provenance == good[2]
    # What remains is white space and the like.
    assert refused > 0.95 * FLIPS


def test_the_digest_is_what_finds_a_changed_number(good, tmp_path):
    header, numbers = parts(good[0])
    changed = bytes([numbers[0] ^ 1]) + numbers[1:]
    assert "its numbers are not those that were written" in refusal(tmp_path, joined(header, changed))
    (tmp_path / "older.safetensors").write_bytes(undigested(joined(header, changed)))
    load_network(tmp_path / "older.safetensors")


def with_architecture(**fields):
    return {"architecture": json.dumps({**dataclasses.asdict(TINY), **fields})}


HUGE = 10**9
METADATA = {
    "no stages": (with_architecture(stage_lengths=[], stage_widths=[]), "as many stage lengths as stage widths"),
    "negative": (with_architecture(stage_lengths=[1, -1]), "all positive, got lengths (1, -1)"),
    "text": (with_architecture(stage_lengths=["1", "1"]), "another kind of stage_lengths, got a value of type list"),
    "a text": (with_architecture(stage_lengths="11"), "another kind of stage_lengths, got '11'"),
    "fractions": (with_architecture(stage_widths=[4.0, 6.5]), "another kind of stage_widths"),
    "booleans": (with_architecture(stage_lengths=[True, True]), "another kind of stage_lengths"),
    "nested": (with_architecture(stage_lengths=[[1], [1]]), "another kind of stage_lengths"),
    "null": (with_architecture(stage_lengths=None), "stage_lengths, got None"),
    "huge length": (with_architecture(stage_lengths=[HUGE, 1]), "at most 1000 blocks"),
    "huge width": (with_architecture(stage_widths=[HUGE, HUGE]), "at most 1000 blocks, and at most 1048576 channels"),
    "huge classes": (with_architecture(n_classes=HUGE), "got 2 blocks, 6 channels and 1000000000 classes"),
    "beyond all": (with_architecture(n_classes=10**400), "a value of type int"),
    "many stages": (with_architecture(stage_lengths=[1] * 20_000, stage_widths=[1] * 20_000), "at most 1000 blocks"),
    "more than there are": (
        with_architecture(stage_lengths=[500, 400]),
        "tell of 900 blocks, but there are only 30 tensors",
    ),
    "no classes": (with_architecture(n_classes=0), "and 0 classes"),
    "activation": (with_architecture(activation="\x1b[2J"), r"got '\x1b[2J'"),
    "activation list": (with_architecture(activation=["relu"]), "activation, got a value of type list"),
    "bowl width NaN": (with_architecture(bowl_width=float("nan")), "bowl_width, got nan"),
    "bowl width infinite": (with_architecture(bowl_width=float("inf")), "bowl_width, got inf"),
    "bowl width beyond all": (with_architecture(bowl_width=10**400), "bowl_width, got a value of type int"),
    "bowl width text": (with_architecture(bowl_width="1"), "bowl_width, got '1'"),
    "surplus field": (with_architecture(**{"a\x1b": 1}), r"got 'a\x1b'"),
    "no object": ({"architecture": "[1]"}, "expected the fields"),
    "no JSON": ({"architecture": "{"}, "metadata are damaged"),
    "deep": ({"architecture": "[" * 100_000}, "metadata are damaged"),
    "long number": ({"architecture": '{"n_classes": ' + "9" * 10_000 + "}"}, "metadata are damaged"),
    "missing": ({"provenance": ...}, "other keys than a network's"),
    "surplus": ({"x\x07": ""}, r"'x\x07'"),
    "another format": ({"format": "\x1b[31m"}, r"expected a network file of format 'advx_jax network 1'"),
    "name": ({"provenance": '{"name": 3, "options": {}}'}, "expected another kind of name, got 3"),
    "options": ({"provenance": '{"options": []}'}, "expected options by name"),
    "option": ({"provenance": '{"options": {"l2_min": 1}}'}, "got 'l2_min': 1"),
    "option name": ({"provenance": '{"options": {"../x": true}}'}, "got '../x': True"),
    "integrator": ({"provenance": '{"psi_integrator": NaN, "options": {}}'}, "psi_integrator, got nan"),
    "sha256": ({"provenance": '{"source_sha256": "\\u001b", "options": {}}'}, r"source_sha256, got '\x1b'"),
    "count": ({"provenance": '{"batches_tracked": -1, "options": {}}'}, "batches_tracked, got -1"),
    "surplus provenance": ({"provenance": '{"x": 1, "options": {}}'}, "got 'x'"),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_that_nobody_can_mean_are_refused_before_anything_is_built(name, good, tmp_path):
    metadata, said = METADATA[name]
    data = undigested(good[0], **metadata)
    tracemalloc.start()
    message = refusal(tmp_path, data)
    assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    tracemalloc.stop()
    assert said in message


def test_a_whole_number_is_a_width_too():
    fields = json.loads(with_architecture(bowl_width=10**10)["architecture"])
    assert type(read_architecture(fields).bowl_width) is float


def headers(data):
    header, numbers = parts(data)
    text = json.dumps(header)
    first = next(name for name in header if name != "__metadata__")
    doubled = f'{{"{first}": {json.dumps(header[first])}, {text[1:]}'
    yield joined(doubled.encode(), numbers), f"'{first}' stands there twice"
    yield struct.pack("<Q", 2**40) + data[8:], "expected a safetensors header of at most"
    yield struct.pack("<Q", len(data)) + data[8:], "the file is cut off"
    yield data[:5], "got 5 bytes"
    yield joined(b"[" * 50_000, b""), "header is damaged"
    yield joined(b"[]", b""), "expected a JSON object as the safetensors header"
    yield joined(b"\xff\xfe", b""), "header is damaged"
    yield joined({**header, "__metadata__": {"format": 3}}, numbers), "expected text by key"
    yield joined({**header, first: 3}, numbers), "expected type and shape of the tensor"
    for dtype in ("F64", "F16", "BF16", "I32", "BOOL"):
        yield joined({**header, first: {**header[first], "dtype": dtype}}, numbers), f"{first}: expected float32["
    yield joined({**header, first: {**header[first], "dtype": "\x1b"}}, numbers), r"got '\x1b'"
    yield joined({**header, first: {**header[first], "shape": [2**62, 2**62]}}, numbers), f"{first}: expected float32["
    yield joined({**header, "z\x1b\n": header[first]}, numbers), r"'z\x1b\n' is surplus"
    offsets = {**header[first], "data_offsets": [0, 2**60]}
    yield joined({**header, first: offsets}, numbers), "the safetensors file is damaged"
    yield data + b"0", "the safetensors file is damaged"
    yield data[:-1], "the safetensors file is damaged"


def test_damaged_headers_are_refused(good, tmp_path):
    for data, said in headers(good[0]):
        assert said in refusal(tmp_path, data)


def test_an_enormous_file_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "enormous.safetensors").open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(UserError, match="expected a file of at most 4294967296 bytes, got 1099511627776"):
        load_network(tmp_path / "enormous.safetensors")


def changed(classifier, name, value):
    """The same network with another first number in one tensor."""
    tensors = {path: np.array(tensor) for path, tensor in flat(classifier.variables).items()}
    tensors[name].flat[0] = value
    return Classifier(traverse_util.unflatten_dict(tensors, sep="/"), classifier.architecture)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("params/stem/kernel", np.nan, "'params/stem/kernel' holds infinite or NaN numbers"),
        ("params/head/bias", np.inf, "'params/head/bias' holds infinite or NaN numbers"),
        ("batch_stats/head_bn/mean", -np.inf, "'batch_stats/head_bn/mean' holds infinite or NaN numbers"),
        ("batch_stats/head_bn/var", -1e-3, "'batch_stats/head_bn/var' holds negative variances"),
        ("constants/std", 0.0, "'constants/std' holds standard deviations that are not positive"),
    ],
)
def test_numbers_that_no_network_has_are_refused_by_the_tensors_name(name, value, said, good, tmp_path):
    wrong = changed(good[1], name, value)
    path = tmp_path / "wrong.safetensors"
    with pytest.raises(UserError) as caught:
        save_network(path, wrong, good[2])
    assert said in str(caught.value)
    assert not path.exists()
    header, _ = parts(undigested(good[0]))
    tensors = safetensors.numpy.load(good[0])
    tensors[name] = np.array(tensors[name])
    tensors[name].flat[0] = value
    assert said in refusal(tmp_path, tensor_bytes(tensors, header["__metadata__"]))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("pipe.0.weight", np.nan, "'pipe.0.weight' holds infinite or NaN numbers"),
        ("pipe.1.0.pre.0.running_var", -1.0, "'pipe.1.0.pre.0.running_var' holds negative variances"),
    ],
)
def test_so_are_those_of_a_pytorch_file(name, value, said, tmp_path):
    tensors = make_tensors()
    tensors[name].flat[0] = value
    (tmp_path / "wrong.pt").write_bytes(as_zip(make_content(tensors)))
    with pytest.raises(UserError) as caught:
        read_pt(tmp_path / "wrong.pt")
    assert said in str(caught.value)


def test_a_standard_deviation_of_zero_in_a_pytorch_file_is_refused(tmp_path):
    tensors = make_tensors()
    tensors["input_offset"][1] = 0
    offset = [[0.5, 0.25, 0.75], [0.0, 0.0, 0.0]]
    (tmp_path / "wrong.pt").write_bytes(as_zip(make_content(tensors, input_offset=offset)))
    with pytest.raises(UserError, match="standard deviations that are not positive"):
        read_pt(tmp_path / "wrong.pt")


WRITE = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from pt_files import make_network
from advx_jax.convert import write_pt
from advx_jax.networks.files import save_network
save_network(Path(sys.argv[1]) / "tiny.safetensors", *make_network())
write_pt(Path(sys.argv[1]) / "tiny.pt", *make_network())
"""


def test_equal_networks_make_equal_files_in_every_process(tmp_path):
    root = Path(__file__).parents[1]
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "JAX_PLATFORMS": "cpu"}
        subprocess.run([sys.executable, "-c", WRITE, make(tmp_path / seed)], cwd=root, env=environment, check=True)
    for name in ("tiny.safetensors", "tiny.pt"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def make(folder):
    folder.mkdir()
    return str(folder)


def test_files_are_what_the_safetensors_library_reads(good, tmp_path):
    data, classifier, _ = good
    (tmp_path / "tiny.safetensors").write_bytes(data)
    with safetensors.safe_open(tmp_path / "tiny.safetensors", framework="numpy") as file:
        assert file.metadata()["format"] == FORMAT
        assert set(file.metadata()) == {"format", "architecture", "provenance", "sha256"}
        kernel = file.get_tensor("params/stem/kernel")
    np.testing.assert_array_equal(kernel, classifier.variables["params"]["stem"]["kernel"])
    order = {"b": np.ones(3, "f4"), "a": np.zeros((2, 2), "f4")}
    shuffled = {name: order[name] for name in ("a", "b")}
    assert tensor_bytes(order, {"y": "1", "x": "2"}) == tensor_bytes(shuffled, {"x": "2", "y": "1"})
    read = safetensors.numpy.load(tensor_bytes(order, {"y": "1", "x": "2"}))
    assert {name: value.tolist() for name, value in read.items()} == {"a": [[0, 0], [0, 0]], "b": [1, 1, 1]}
