"""Networks of known families out of PyTorch's files, in the dialects that people save them in, and back."""

import argparse
import contextlib
import dataclasses
import functools
import random
import tracemalloc
import warnings

import jax
import jaxtyping
import numpy as np
import pytest

import advx_jax as ax
from advx_jax.convert import read_pt, write_pt
from advx_jax.convert.normalisation import Normalisation
from advx_jax.convert.pickled_objects import NumpyArray, NumpyType
from advx_jax.errors import UserError
from advx_jax.networks import robustbench
from advx_jax.networks.files import load_network, save_network
from advx_jax.networks.named import architecture_named
from advx_jax.networks.registry import FileHints, resolve_model, resolve_network
from advx_jax.networks.robustbench import robustbench_entries, robustbench_entry

torch = pytest.importorskip("torch")

from torch_wide_resnet import MEAN, STD, WideResNet10, WithBuffers, logits_of, named, randomised, sequential

IMAGES = np.random.default_rng(0).uniform(size=(4, 32, 32, 3)).astype(np.float32)
RELATIVE = 1e-5
logits = jax.jit(lambda classifier, images: classifier(images))


def assert_near(found, expected, relative=RELATIVE):
    assert np.linalg.norm(np.asarray(found) - expected) <= relative * np.linalg.norm(expected)


def bare(network, path):
    torch.save(network.state_dict(), path)


def from_data_parallel_in_half(network, path):
    state = {f"module.{name}": tensor.half() for name, tensor in network.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"net": state, "acc": 90.0}, path, pickle_protocol=2, _use_new_zipfile_serialization=False)
    network.half().float()


def averaged_beside_an_optimizer(network, path):
    optimizer = torch.optim.Adam(network.parameters())
    network.train()
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    state = torch.optim.swa_utils.AveragedModel(network).state_dict()
    content = {
        "ema": state,
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(device=torch.device("cpu")),
        "best": np.float64(0.5),
    }
    torch.save(content, path, pickle_protocol=4)
    network.eval()


DIALECTS = [bare, from_data_parallel_in_half, averaged_beside_an_optimizer]


@pytest.mark.parametrize("saved", DIALECTS)
@pytest.mark.parametrize("build", [WithBuffers, sequential, named])
def test_logits_are_pytorchs_in_every_dialect(build, saved, tmp_path):
    network = randomised(build())
    saved(network, tmp_path / "saved.pt")
    classifier, provenance = read_pt(tmp_path / "saved.pt")
    assert classifier.architecture.name == "WideResNet-10-1"
    assert provenance.name == "saved"
    assert_near(logits(classifier, IMAGES), logits_of(network, IMAGES))


@pytest.mark.parametrize("build", [WideResNet10, WithBuffers, sequential, named])
def test_what_is_written_loads_strictly_and_is_read_without_hints(build, tmp_path):
    network = randomised(build())
    bare(network, tmp_path / "saved.pt")
    hints = {"normalisation": "imagenet"} if build is WideResNet10 else {}
    save_network(tmp_path / "between.safetensors", *read_pt(tmp_path / "saved.pt", **hints))
    classifier, provenance = load_network(tmp_path / "between.safetensors")
    classifier = classifier.replace(class_names=tuple("abcdefghij"))
    write_pt(tmp_path / "back.pt", classifier, provenance)

    state = torch.load(tmp_path / "back.pt", weights_only=True)["state_dict"]
    expected = network.state_dict()
    build().load_state_dict(state, strict=True)
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name

    again, read = read_pt(tmp_path / "back.pt")
    assert again.fingerprint() == classifier.fingerprint()
    assert again.class_names == classifier.class_names
    assert dataclasses.replace(read, name="", source_sha256="") == dataclasses.replace(
        provenance, name="", source_sha256=""
    )


def refusal(call, *arguments, **settings):
    with pytest.raises(UserError) as caught:
        call(*arguments, **settings)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_what_the_file_does_not_tell_is_asked_for_and_must_not_contradict_it(tmp_path):
    plain, normalised = tmp_path / "plain.pt", tmp_path / "normalised.pt"
    bare(randomised(WideResNet10()), plain)
    bare(randomised(WithBuffers()), normalised)
    message = refusal(read_pt, plain)
    assert message.endswith(
        "how images are normalised: give --normalise=none|cifar10|cifar100|imagenet|0.49,0.48,0.45/0.25,0.24,0.26"
    )
    assert "expected --normalise=none|cifar10" in refusal(read_pt, plain, normalisation="cifar11")
    assert "divide all by 255" in refusal(read_pt, plain, normalisation="125.3,123,113.9/63,62.1,66.7")
    assert "one for 2" in refusal(read_pt, plain, normalisation="0.5,0.5/1,1")
    assert "as many finite means" in refusal(read_pt, plain, normalisation="0.5,0.5/1")
    assert "as many finite means" in refusal(read_pt, plain, normalisation="0.5/0")
    assert "expected the tensors of WideResNet-28-10" in refusal(read_pt, plain, "WideResNet-28-10", "none")
    told = refusal(read_pt, normalised, normalisation="cifar10")
    assert "has a normalisation of its own, 0.5,0.25,0.375/0.25,0.5,0.125" in told
    # The same, but for a digit that 16 bits would not keep.
    text = ",".join(f"{value + 1e-4}" for value in MEAN) + "/" + ",".join(map(str, STD))
    classifier, _ = read_pt(normalised, "wideresnet-10-1", text)
    np.testing.assert_array_equal(classifier.variables["constants"]["mean"], np.float32(MEAN))
    default, _ = read_pt(normalised, default_normalisation="none")
    assert default.fingerprint() == classifier.fingerprint()


@pytest.mark.parametrize("normalise", ["none", "0.5/0.25", "0.5,0.5,0.5/0.25,0.25,0.25", "cifar10"])
def test_normalisation_that_is_told_is_the_networks(normalise, tmp_path):
    network = randomised(WideResNet10())
    bare(network, tmp_path / "plain.pt")
    classifier, _ = read_pt(tmp_path / "plain.pt", normalisation=normalise)
    told = Normalisation.parse(normalise)
    mean, std = (np.float32(half) for half in (told.mean, told.std))
    assert ax.load_model(str(tmp_path / "plain.pt"), normalise=normalise).fingerprint() == classifier.fingerprint()
    assert_near(logits(classifier, IMAGES), logits_of(network, (IMAGES - mean) / std))


def test_of_several_state_dicts_a_line_says_which_was_taken(tmp_path, capsys):
    path, networks = tmp_path / "two.pt", {"model": randomised(WithBuffers(), 1), "ema": randomised(WithBuffers(), 2)}
    torch.save({name: network.state_dict() for name, network in networks.items()}, path)
    classifier, _ = read_pt(path)
    assert_near(logits(classifier, IMAGES), logits_of(networks["ema"], IMAGES))
    said = capsys.readouterr().err
    assert said == f"{path}: took the state dict under 'ema'; --state_dict chooses another: 'model'\n"
    classifier = resolve_model(str(path), FileHints(state_dict="model")).classifier
    assert_near(logits(classifier, IMAGES), logits_of(networks["model"], IMAGES))


def test_hints_are_for_pytorch_files_that_need_them(tmp_path):
    for model in ("resnet20-quick-robust", "robustbench:cifar10/Linf/Standard", "package:name", str(tmp_path)):
        message = refusal(resolve_model, model, FileHints(normalise="none", state_dict="x"))
        assert message == f"expected a PyTorch file as --model for --normalise and --state_dict, got {model}"


@pytest.mark.parametrize("change", ["missing", "surplus", "misshapen", "integers", "infinite", "negative counter"])
def test_damaged_state_dicts_are_refused_by_name(change, tmp_path):
    state = randomised(WithBuffers()).state_dict()
    name = "block2.layer.0.conv1.weight"
    if change == "missing":
        del state[name]
    elif change == "surplus":
        state["block2.layer.0.more.weight"] = state[name]
    elif change == "misshapen":
        state[name] = state[name][:, :, :, :2]
    elif change == "integers":
        state[name] = state[name].int()
    elif change == "infinite":
        state[name] = state[name].double() * 1e300
    else:
        state["bn1.num_batches_tracked"] = torch.tensor(-1)
    torch.save(state, tmp_path / "damaged.pt")
    said = {
        "missing": f"{name} is missing",
        "surplus": "'block2.layer.0.more.weight' is surplus",
        "misshapen": f"{name}: expected float32[32, 16, 3, 3], got float32[32, 16, 3, 2]",
        "integers": f"{name}: expected float32[32, 16, 3, 3], got int32[32, 16, 3, 3]",
        "infinite": f"'{name}' holds infinite or NaN numbers",
        "negative counter": "counts of batches in num_batches_tracked, got negative ones",
    }
    assert said[change] in refusal(read_pt, tmp_path / "damaged.pt")


def nested(depth):
    """A list whose text doubles with each level, while a pickle holds each once."""
    whole = []
    for _ in range(depth):
        whole = [whole, whole]
    return whole


@pytest.mark.parametrize(
    "changes", [{"normalisation": {"mean": [2**2000] * 3, "std": [1.0] * 3}}, {"architecture": nested(60)}]
)
def test_marks_of_ours_that_are_none_are_refused(changes, tmp_path):
    bare(randomised(WithBuffers()), tmp_path / "saved.pt")
    write_pt(tmp_path / "good.pt", *read_pt(tmp_path / "saved.pt"))
    content = torch.load(tmp_path / "good.pt", weights_only=True)
    torch.save(content | changes, tmp_path / "odd.pt")
    assert "expected architecture and normalisation of" in refusal(read_pt, tmp_path / "odd.pt")


def test_a_wrapper_whose_names_no_file_of_ours_keeps_is_refused(tmp_path):
    state = randomised(WithBuffers()).state_dict()
    torch.save({f"net 1.{name}": tensor for name, tensor in state.items()}, tmp_path / "named.pt")
    # What all names have in common is no name that is kept.
    read_pt(tmp_path / "named.pt")
    network = {f"net 1.{name}": tensor for name, tensor in state.items() if name not in ("mu", "sigma")}
    torch.save(network | {name: state[name] for name in ("mu", "sigma")}, tmp_path / "named.pt")
    message = refusal(read_pt, tmp_path / "named.pt")
    assert "expected names of letters, digits, _, . and -" in message
    assert message.endswith("got 'mu', 'sigma', 'net 1.'")


def test_one_array_under_many_names_is_read_once(tmp_path):
    array = np.zeros((100, 100))
    torch.save({f"w{number}.weight": array for number in range(5000)}, tmp_path / "many.pt")
    tracemalloc.start()
    refusal(read_pt, tmp_path / "many.pt", normalisation="none")
    assert tracemalloc.get_traced_memory()[1] < 2000 * array.nbytes / 2
    tracemalloc.stop()


def test_an_empty_array_of_an_endless_shape_is_none():
    assert not NumpyArray().fill(b"", NumpyType("f4"), (0, 2**62), "C")
    assert NumpyArray().fill(b"", NumpyType("f4"), (0, 2**20), "C")


ODD_NAMES = (
    *(
        "layer1.0.conv3.weight",
        "layer.0.block.0.conv_0.weight",
        "layer_0.0.conv_2d_1.weight",
        "block4.layer.0.x.weight",
    ),
    *("block1.layer.99999999999999999999.conv1.weight", "block1.layer.00.conv1.weight", "block1.layer.٣.bn1.weight"),
    *("fc.weight", "linear.weight", "logits.weight", "conv1.weight", "mean", "mu", "", "...", "num_batches_tracked"),
)
ODD_VALUES = (None, 3, "x", torch.tensor(float("nan")), torch.tensor(-1), torch.tensor(1e38), torch.zeros(0, 3))


def changed(state, rng):
    """A state dict with one entry left out, renamed, or of another value, shape or type."""
    state, name = dict(state), rng.choice(list(state))
    match rng.randrange(6):
        case 0:
            del state[name]
        case 1:
            state[rng.choice(ODD_NAMES)] = rng.choice(list(state.values()))
        case 2:
            state[name] = torch.zeros([rng.choice([0, 1, 3, 16, 32, 100]) for _ in range(rng.randrange(6))])
        case 3:
            state[rng.choice([name, rng.choice(ODD_NAMES)])] = rng.choice(ODD_VALUES)
        case 4:
            state = {f"layer{key[5:]}" if key.startswith("block") else key: value for key, value in state.items()}
        case _:
            state[name] = state[name].to(rng.choice([torch.int8, torch.bool, torch.complex64, torch.uint16]))
    return state


def test_state_dicts_of_any_names_and_shapes_are_refused_or_read(tmp_path):
    good, rng = randomised(WithBuffers()).state_dict(), random.Random(1783)
    jaxtyping.config.update("jaxtyping_disable", True)  # which takes most of the time
    try:
        for _ in range(150):
            torch.save(changed(good, rng), tmp_path / "odd.pt")
            with contextlib.suppress(UserError):
                read_pt(tmp_path / "odd.pt", *rng.choice([(), ("WideResNet-10-1",), ("DMWideResNet-10-1-relu",)]))
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_every_name_of_robustbench_can_be_built():
    entries = robustbench_entries()
    assert len({entry.path for entry in entries}) == len(entries) > 100
    for entry in entries:
        assert architecture_named(entry.architecture).name == entry.architecture
        assert len(Normalisation.parse(entry.normalisation).mean) in (1, 3)
        assert robustbench_entry(entry.path) == entry


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("Rice2020OverfittingL2", "cifar10/L2/Rice2020Overfitting"),
        ("Rice2020Overfitting_L2", "cifar10/L2/Rice2020Overfitting"),
        ("l2/Rice2020Overfitting", "cifar10/L2/Rice2020Overfitting"),
        ("cifar100/Rice2020Overfitting", "cifar100/Linf/Rice2020Overfitting"),
        ("Carmon2019Unlabeled", "cifar10/Linf/Carmon2019Unlabeled"),
    ],
)
def test_short_names_of_robustbench(name, path):
    assert robustbench_entry(name).path == path


def test_wrong_names_of_robustbench_are_answered():
    said = refusal(resolve_model, "robustbench:Rice2020Overfiting")
    assert said.endswith("got 'Rice2020Overfiting'; did you mean Rice2020Overfitting?")
    said = refusal(resolve_model, "robustbench:Rice2020Overfitting")
    assert "robustbench:cifar10/Linf/Rice2020Overfitting; robustbench:cifar10/L2/Rice2020Overfitting" in said
    assert "expected one of RobustBench's ResNets" in refusal(resolve_model, "robustbench:cifar100/L2/x/Standard")


@pytest.fixture
def tiny_entry(monkeypatch, tmp_path):
    monkeypatch.setitem(robustbench._TABLE, ("cifar10", "L2", "WideResNet-10-1", "cifar10", 0), "Tiny2020")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADVX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ADVX_PREBUILT", str(tmp_path / "mine"))


@pytest.mark.usefixtures("tiny_entry")
@pytest.mark.parametrize("folder", ["models", "prebuilt", "mine", "cache"])
def test_robustbenchs_files_are_found_where_it_leaves_them(folder, tmp_path):
    said = refusal(resolve_model, "robustbench:Tiny2020")
    assert "put RobustBench's file at models/cifar10/L2/Tiny2020.pt, where its load_model leaves it, or" in said
    path = tmp_path / folder / "cifar10" / "L2" / "Tiny2020.pt"
    path.parent.mkdir(parents=True)
    network = randomised(WideResNet10())
    bare(network, path)
    found = resolve_network("robustbench:Tiny2020")
    assert found.provenance.name == "Tiny2020-cifar10-L2"
    mean, std = (np.float32(half) for half in ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)))
    assert_near(logits(found.classifier, IMAGES), logits_of(network, (IMAGES - mean) / std))
    # What the file itself tells counts more than the table.
    bare(randomised(WithBuffers()), path)
    constants = resolve_network("robustbench:Tiny2020").classifier.variables["constants"]
    np.testing.assert_array_equal(constants["mean"], np.float32(MEAN))


def large(kind):
    from robustbench_models import robustbench_file, with_random_numbers

    if kind == "PreActResNet-18":
        module = robustbench_file("resnet")
        return with_random_numbers(module.PreActResNet(module.PreActBlock, [2, 2, 2, 2]))
    return with_random_numbers(robustbench_file("wide_resnet").WideResNet(depth=28, widen_factor=10))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PreActResNet-18", "WideResNet-28-10"])
def test_large_networks_of_robustbench_in_every_dialect_and_back(kind, tmp_path):
    network = large(kind)
    read = functools.partial(read_pt, architecture=kind, normalisation="none")
    for saved in DIALECTS:
        saved(network, tmp_path / "saved.pt")
        classifier, provenance = read(tmp_path / "saved.pt")
        assert_near(logits(classifier, IMAGES), logits_of(network, IMAGES))
    write_pt(tmp_path / "back.pt", classifier, provenance)
    state = torch.load(tmp_path / "back.pt", weights_only=True)["state_dict"]
    large(kind).load_state_dict(state, strict=True)
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
