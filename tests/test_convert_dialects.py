"""What people save with PyTorch beside and around a network: all of it is read, and none of it is run."""

import argparse
import collections
import io
import pathlib
import random
import time
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from audit import AUDIT
from pt_files import zip_bytes

from advx_jax.convert.containers import read_container
from advx_jax.convert.state_dict import read_state_dict
from advx_jax.errors import UserError

torch = pytest.importorskip("torch")

PROTOCOLS = range(2, 6)
# Of each of eight files: four protocols in two containers.
MUTATIONS = 260
# A damaged small file must cost about as much memory and time as a good one, which takes 0.2 MB and some milliseconds.
MOST_MEMORY = 20e6
MOST_SECONDS = 5


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 4, 3)
        self.bn1 = torch.nn.BatchNorm2d(4)

    def forward(self, x):
        return self.bn1(self.conv1(x))


class Normalise(torch.nn.Module):
    def __init__(self, shape=(1, 3, 1, 1), names=("mean", "std")):
        super().__init__()
        self.register_buffer(names[0], torch.tensor([0.5, 0.25, 0.125]).reshape(shape))
        self.register_buffer(names[1], torch.tensor([1.0, 2.0, 4.0]).reshape(shape))


def network(seed=0):
    torch.manual_seed(seed)
    net = Block()
    for buffer in net.buffers():
        buffer.data = torch.full_like(buffer, 7) if buffer.ndim == 0 else torch.rand_like(buffer)
    return net


def contents_of(value, path, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # legacy storages have a warning of PyTorch's own
        torch.save(value, path / "saved.pt", **settings)
    return read_container((path / "saved.pt").read_bytes())


def assert_is(found, net):
    expected = net.state_dict()
    assert found.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found.tensors[name].dtype == (np.int64 if name.endswith("tracked") else np.float32), name
        np.testing.assert_array_equal(found.tensors[name], tensor.numpy(), err_msg=name)


def trained(net):
    """A checkpoint as a training script writes it, with what lies beside a network."""
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [5, 5, 7])
    return {
        "epoch": 7,
        "acc": np.float64(0.875),
        "best": np.float32(0.5),
        "history": np.arange(6.0).reshape(2, 3),
        "names": np.array(["a", "b"]),
        "objects": np.array([None, "x"]),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "args": argparse.Namespace(lr=0.1, device=torch.device("cuda:0"), where=pathlib.PurePosixPath("/a/b")),
        "rng": {"torch": torch.get_rng_state(), "numpy": np.random.RandomState(0).get_state()},
        "by_class": collections.defaultdict(list, {1: [2], (3, None): [4.0]}),
        "numbers": [2**100, -1, 2**3000, 1.5, 1 + 2j, True, None, range(3), slice(1, 2)],
        "sets": [{1, 2}, frozenset(["a"]), collections.Counter("aab"), collections.deque([1, 2])],
        "bytes": [b"abc", bytearray(b"def"), b"x" * 300],
        "texts": ["é", "x" * 300],
        "shape": torch.Size([1, 2]),
        "dtype": torch.float16,
        "layout": torch.strided,
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3.0),
        "kinds": [torch.ones(2, dtype=getattr(torch, kind)) for kind in ("int8", "uint8", "int16", "bool", "uint16")],
        "untyped": torch.arange(3.0).untyped_storage(),
        "expanded": torch.ones(3).expand(100, 3),
        "state_dict": net.state_dict(),
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_lies_beside_a_network_is_passed_over(protocol, zipped, tmp_path):
    net = network()
    settings = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
    found = read_state_dict(contents_of(trained(net), tmp_path, **settings))
    assert_is(found, net)
    assert (found.key, found.others, found.normalisation) == ("state_dict", (), None)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_are_what_they_were(protocol, tmp_path):
    value = contents_of(trained(network()), tmp_path, pickle_protocol=protocol).value
    assert (value["epoch"], value["acc"], value["best"]) == (7, 0.875, 0.5)
    np.testing.assert_array_equal(value["history"].values, np.arange(6.0).reshape(2, 3))
    assert value["names"].values is None
    assert value["numbers"][:4] == [2**100, -1, 2**3000, 1.5]
    assert value["bytes"] == [b"abc", b"def", b"x" * 300]
    assert value["texts"] == ["é", "x" * 300]
    assert value["shape"] == (1, 2)
    # Keys that are no texts are left out.
    assert value["by_class"] == {}


def test_a_module_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(
        UserError, match=r"wants the Python object '\w+.Block'; save the network's state_dict\(\) alone"
    ):
        contents_of(network(), tmp_path)


NESTED = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": torch.tensor(3)},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {0: state}}},
    "net": lambda state: {"net": state, "acc": 95.0},
    "something": lambda state: {"something": state},
    "ema.model": lambda state: {"ema": {"model": state, "decay": 0.9}},
    "twice the same": lambda state: {"model": state, "best": state},
}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module.model.", "_orig_mod.module.", "1."])
@pytest.mark.parametrize("nested", NESTED)
def test_state_dicts_are_found_and_unwrapped(nested, prefix, tmp_path):
    net = network()
    state = OrderedDict((f"{prefix}{name}", tensor) for name, tensor in net.state_dict().items())
    assert_is(read_state_dict(contents_of(NESTED[nested](state), tmp_path)), net)


def test_of_several_state_dicts_the_documented_one_is_taken_unless_another_is_asked_for(tmp_path):
    nets = {"model": network(1), "ema": network(2), "weird": network(3)}
    contents = contents_of({name: net.state_dict() for name, net in nets.items()}, tmp_path)
    found = read_state_dict(contents)
    assert_is(found, nets["ema"])
    assert (found.key, found.others) == ("ema", ("model", "weird"))
    for name, net in nets.items():
        assert_is(read_state_dict(contents, name), net)
    with pytest.raises(UserError, match=r"expected a key of a state dict, 'model'; 'ema'; 'weird', got 'modle'; did"):
        read_state_dict(contents, "modle")


def test_where_nothing_tells_which_is_meant_it_is_asked_for(tmp_path):
    contents = contents_of({name: network().state_dict() for name in ("teacher", "student")}, tmp_path)
    with pytest.raises(UserError, match=r"under the keys 'teacher'; 'student': choose one with --state_dict"):
        read_state_dict(contents)
    assert read_state_dict(contents, "student").key == "student"


@pytest.mark.parametrize(
    "value", [{"epoch": 1}, {"state_dict": {}}, [1, 2], {"state_dict": {"weight": 3.0}}, {"x.bias": torch.ones(3)}]
)
def test_files_without_a_network_are_refused(value, tmp_path):
    with pytest.raises(UserError, match="expected a state dict of a network's tensors, got "):
        read_state_dict(contents_of(value, tmp_path))


@pytest.mark.parametrize("shape", [(3,), (1, 3, 1, 1), (3, 1, 1)])
@pytest.mark.parametrize("names", [("mu", "sigma"), ("mean", "std"), ("_mean", "_std")])
@pytest.mark.parametrize("arranged", ["in the network", "normalize", "sequential", "wrapped twice"])
def test_normalisation_is_taken_out(arranged, names, shape, tmp_path):
    net, normalise = network(), Normalise(shape, names)
    if arranged == "in the network":
        state = {**net.state_dict(), **normalise.state_dict()}
    elif arranged == "normalize":
        whole = torch.nn.Sequential(OrderedDict(normalize=normalise, model=net))
        state = whole.state_dict()
    elif arranged == "sequential":
        state = torch.nn.Sequential(normalise, net).state_dict()
    else:
        state = torch.nn.ModuleDict({"module": torch.nn.Sequential(normalise, torch.nn.Sequential(net))}).state_dict()
    found = read_state_dict(contents_of(state, tmp_path))
    assert_is(found, net)
    assert found.normalisation.mean == (0.5, 0.25, 0.125)
    assert found.normalisation.std == (1.0, 2.0, 4.0)


def test_counters_may_be_missing_or_short(tmp_path):
    net = network()
    state = net.state_dict()
    state["bn1.num_batches_tracked"] = state["bn1.num_batches_tracked"].int()
    assert_is(read_state_dict(contents_of(state, tmp_path)), net)
    del state["bn1.num_batches_tracked"]
    found = read_state_dict(contents_of(state, tmp_path)).tensors
    assert found["bn1.num_batches_tracked"].item() == 0
    assert list(found) == list(net.state_dict())


@pytest.mark.parametrize("kind", ["half", "bfloat16", "double"])
def test_other_precisions_become_float32(kind, tmp_path):
    net = getattr(network(), kind)()
    state = net.state_dict()
    found = read_state_dict(contents_of(state, tmp_path)).tensors
    assert found["conv1.weight"].dtype == np.float32
    np.testing.assert_array_equal(found["conv1.weight"], state["conv1.weight"].float().numpy())


def arranged_oddly(net):
    """Views, one storage for all, another memory order, parameters with attributes, NumPy arrays."""
    state = net.state_dict(keep_vars=True)
    whole = torch.cat([state["bn1.weight"], state["bn1.bias"]]).detach()
    state["bn1.weight"], state["bn1.bias"] = whole[:4], whole[4:]
    parameter = torch.nn.Parameter(state["conv1.weight"].detach().to(memory_format=torch.channels_last))
    parameter.kept = "attribute"
    state["conv1.weight"] = parameter
    with_attribute = state["bn1.running_mean"].clone()
    with_attribute.kept = "attribute"
    state["bn1.running_mean"] = with_attribute
    state["conv1.bias"] = state["conv1.bias"].detach().numpy()
    state["bn1.running_var"] = state["bn1.running_var"].repeat_interleave(2)[::2]
    return state


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors_in_odd_places_are_read(protocol, tmp_path):
    net = network()
    assert_is(read_state_dict(contents_of(arranged_oddly(net), tmp_path, pickle_protocol=protocol)), net)


def test_averaged_networks_are_read(tmp_path):
    net = network()
    assert_is(read_state_dict(contents_of(torch.optim.swa_utils.AveragedModel(net).state_dict(), tmp_path)), net)


def test_untyped_storages_are_read(tmp_path):
    """PyTorch writes its newer types as bytes and a type beside; whether such a tensor fits is found later."""
    state = network().state_dict() | {"extra": torch.tensor([7, 2**15], dtype=torch.uint16)}
    found = read_state_dict(contents_of(state, tmp_path)).tensors["extra"]
    np.testing.assert_array_equal(found, np.array([7, 2**15], np.uint16))


def mutated(good, rng):
    data = bytearray(good)
    start, other, length = rng.randrange(len(data)), rng.randrange(len(data)), rng.choice([1, 1, 2, 8, 40])
    match rng.randrange(5):
        case 0:
            for _ in range(rng.choice([1, 1, 2, 8])):
                data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        case 1:
            data[start : start + rng.choice([0, length])] = data[other : other + length]
        case 2:
            del data[start : start + length]
        case 3:
            data[start : start + length] = bytes([rng.choice([0, 0x7F, 0xFF])]) * length
        case _:
            # An opcode for another: most are refused at once, the others lead astray.
            data[start] = ord(rng.choice("cRb(.tuesa0h}])\x81\x85\x86\x87\x8a\x8b\x8c\x8e\x8f\x90\x91\x93\x94\x95\x96"))
    return bytes(data)


def as_written(value, zipped, path, protocol):
    """What to damage of a file, and what makes a file of it again, in which an archive's checksums are right."""
    contents_of(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    data = (path / "saved.pt").read_bytes()
    if not zipped:
        return data, bytes
    archive = zipfile.ZipFile(io.BytesIO(data))
    n_storages = sum(name.startswith("saved/data/") for name in archive.namelist())
    storages = [archive.read(f"saved/data/{i}") for i in range(n_storages)]
    return archive.read("saved/data.pkl"), lambda program: zip_bytes(program, storages)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("zipped", "protocol"),
    [
        # The newest in archives stands for the others by default.
        pytest.param(
            zipped,
            protocol,
            id=f"{protocol}-{'zip' if zipped else 'legacy'}",
            marks=() if (zipped, protocol) == (True, PROTOCOLS[-1]) else pytest.mark.slow,
        )
        for zipped in (True, False)
        for protocol in PROTOCOLS
    ],
)
def test_damaged_files_of_all_dialects_are_refused_or_harmless(protocol, zipped, tmp_path):
    net = torch.nn.Sequential(Normalise(), torch.nn.Conv2d(3, 1, 1), torch.nn.BatchNorm2d(1)).half()
    value = {
        name: entry for name, entry in trained(network()).items() if name not in ("rng", "optimizer", "state_dict")
    }
    good, packed = as_written({**value, "state_dict": net.state_dict()}, zipped, tmp_path, protocol)
    rng = random.Random(1782 + protocol)
    outcomes = []
    # Whatever a first reading imports by itself is over with then.
    read_state_dict(read_container(packed(good)))
    tracemalloc.start()
    for _ in range(MUTATIONS):
        data = packed(mutated(good, rng))
        started, message = time.monotonic(), None
        with AUDIT as events:
            try:
                read_state_dict(read_container(data))
            except UserError as error:
                message = str(error)
        assert events == []
        assert time.monotonic() - started < MOST_SECONDS
        if message is not None:
            assert message.isprintable()
            assert len(message) < 2000
        outcomes.append(message is None)
    assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    tracemalloc.stop()
    assert 0 < sum(outcomes) < len(outcomes)


def test_numbers_that_collide_as_keys_cost_nothing(tmp_path):
    """Python hashes a number to itself modulo 2**61 - 1: a dict of these would take hours."""
    keys = {i * (2**61 - 1) for i in range(1000)}
    program = b"\x80\x04}(" + b"".join(b"\x8a\x0b" + key.to_bytes(11, "little", signed=True) + b"N" for key in keys)
    assert read_container(zip_bytes(program + b"u.", [])).value == {}


def test_bytes_made_of_one_text_over_and_over_are_refused():
    encode = b"c_codecs\nencode\n(h\x00X\x06\x00\x00\x00latin1tR"
    program = b"\x80\x02(X\x00\x10\x00\x00" + b"x" * 4096 + b"q\x00" + encode * 100 + b"t."
    with pytest.raises(UserError, match="makes more bytes out of texts than it holds"):
        read_container(zip_bytes(program, []))
