"""`python -m advx_jax.convert`, as a person runs it."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pt_files import as_legacy, as_zip, flat, make_content, make_network

from advx_jax.convert import read_pt, write_pt
from advx_jax.networks.files import load_network, save_network

PROJECT = Path(__file__).parents[1]
# PyTorch must not be needed: an import of it fails in these processes.
RUN_WITHOUT_TORCH = (
    "import runpy, sys; sys.modules['torch'] = None; runpy.run_module('advx_jax.convert', run_name='__main__')"
)


def command(*arguments, cwd) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "ADVX_CACHE": str(cwd / "cache")}
    return subprocess.run(
        [sys.executable, "-c", RUN_WITHOUT_TORCH, *map(str, arguments)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_published_file_to_safetensors_and_back(published_pt, tmp_path):
    source = published_pt("resnet44-all")
    (tmp_path / "tiny.pt").write_bytes(as_zip(make_content()))
    done = command(source, "tiny.pt", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    header, published, tiny = done.stdout.splitlines()
    assert header.split() == ["written", "tensors", "parameters", "sha256", "of", "the", "source"]
    # 681,626 trainable numbers, counted in PyTorch: the sum over the 133 parameters.
    sha256 = "ff8609712e0cfe96f75b7bac4483d2103b18b86d61c70d51b959bc680b52a55f"
    assert published.split() == ["prebuilt/resnet44-all.safetensors", "306", "681626", sha256]
    assert tiny.split()[0] == "prebuilt/tiny.safetensors"
    classifier, provenance = load_network(tmp_path / "prebuilt" / "resnet44-all.safetensors")
    assert provenance.source_sha256 == sha256
    expected, _ = read_pt(source)
    for path, value in flat(expected.variables).items():
        assert flat(classifier.variables)[path].tobytes() == value.tobytes(), path

    # By name now, because prebuilt/ in the working folder holds the converted file.
    done = command("--to_pt", "--output_dir=for_torch", "resnet44-all", "prebuilt/tiny.safetensors", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    again, _ = read_pt(tmp_path / "for_torch" / "resnet44-all.pt")
    for path, value in flat(expected.variables).items():
        assert flat(again.variables)[path].tobytes() == value.tobytes(), path
    assert sorted(path.name for path in (tmp_path / "for_torch").iterdir()) == ["resnet44-all.pt", "tiny.pt"]


@pytest.mark.slow
def test_a_state_dict_of_a_family_to_safetensors_and_back(tmp_path):
    torch = pytest.importorskip("torch")
    from torch_wide_resnet import WideResNet10, randomised

    network = randomised(WideResNet10())
    torch.save({"net": network.state_dict(), "acc": 90.0}, tmp_path / "tiny.pth")
    done = command("tiny.pth", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: cannot read the network tiny.pth: nothing in the file tells how images are")
    done = command("tiny.pth", "--normalise=cifar10", "--architecture=WideResNet-10-1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].split()[0] == "prebuilt/tiny.safetensors"
    done = command("--to_pt", "--output_dir=back", "prebuilt/tiny.safetensors", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    WideResNet10().load_state_dict(torch.load(tmp_path / "back" / "tiny.pt", weights_only=True)["state_dict"])


def test_a_training_workdir_gives_its_name(tmp_path):
    save_network(tmp_path / "mine" / "network.safetensors", *make_network())
    done = command("--to_pt", "mine", "--output_dir=out", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    classifier, _ = read_pt(tmp_path / "out" / "mine.pt")
    assert classifier.architecture == make_network()[0].architecture


def test_a_file_is_not_written_over_its_source(tmp_path):
    folder = tmp_path / "prebuilt"
    write_pt(folder / "tiny.pt", *make_network())
    sha256 = hashlib.sha256((folder / "tiny.pt").read_bytes()).hexdigest()
    save_network(folder / "tiny.safetensors", *read_pt(folder / "tiny.pt"))
    for source in ("prebuilt/tiny.pt", "prebuilt/tiny.safetensors"):
        done = command("--to_pt", source, cwd=tmp_path)
        assert done.returncode == 1
        assert done.stdout == ""
        said = "error: prebuilt/tiny.pt is the file that this network comes from; give another --output_dir\n"
        assert done.stderr == said
    assert hashlib.sha256((folder / "tiny.pt").read_bytes()).hexdigest() == sha256


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--help"], 0, "python -m advx_jax.convert --to_pt"),
        ([], 1, "error: expected at least one .pt file, got none; see --help\n"),
        pytest.param(["--frob", "x.pt"], 1, "error: Unknown command line flag 'frob'", marks=pytest.mark.slow),
        pytest.param(
            ["a/tiny.pt", "b/tiny.pt"],
            1,
            "got two that would become prebuilt/tiny.safetensors\n",
            marks=pytest.mark.slow,
        ),
        (["a/tiny.pt", "damaged.pt"], 1, "error: cannot read the network damaged.pt: the file is cut off in storage"),
    ],
)
def test_help_and_errors(arguments, status, said, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tiny.pt").write_bytes(as_zip(make_content()))
    (tmp_path / "damaged.pt").write_bytes(as_legacy(make_content())[:-5])
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == status
    assert said in (done.stderr if status else done.stdout)
    assert len(done.stderr.splitlines()) == status
    assert not (tmp_path / "prebuilt").exists()
