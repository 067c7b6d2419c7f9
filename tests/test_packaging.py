"""What is installed has everything that the commands need, and nobody's own folders stand in for it."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from networks import random_classifier
from processes import quick_environment

from advx_jax.networks.classifier import Provenance
from advx_jax.networks.files import save_network

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip")
OFFLINE = ("--quiet", "--no-deps", "--no-build-isolation")
# A package is looked at, and a command is found, as Python does it in a working folder.
LOOK = """
import runpy, sys
import advx_jax, advx_jax.configs.published, advx_jax.convert
from advx_jax.networks.registry import manifest
print(advx_jax.__version__, advx_jax.__file__, advx_jax.convert.__file__, "resnet44-all" in manifest())
sys.argv = ["ara", "--help"]
runpy.run_module("advx_jax.ara", run_name="__main__")
"""


def clone(folder: Path) -> Path:
    """Copy the project, so that the clone itself gets no build folders."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "output", "tests", "*.pt", "measured")
    shutil.copytree(ROOT, folder, symlinks=True, ignore=ignored)
    return folder


def own_folders(folder: Path) -> None:
    """Make folders of the names of ours, with and without being packages."""
    (folder / "prebuilt").mkdir(parents=True)
    for name in ("configs", "convert"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise ImportError('not meant')\n")


def environment(site: Path, cache: Path) -> dict[str, str]:
    found = {**quick_environment(cache), "PYTHONPATH": str(site)}
    found.pop("CIFAR10_PATH", None)
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The project's wheel, built."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([*PIP, "wheel", *OFFLINE, "-w", folder, clone(folder / "source")], check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_has_the_package_with_its_data_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "data/cifar10_sample.npz",
        "reports/gallery.html.j2",
        "py.typed",
        "configs/robust.py",
        "convert/__main__.py",
        "prebuilt/manifest.json",
    ):
        assert f"advx_jax/{name}" in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"advx_jax"}


def test_installed_wheel_explains_outside_the_clone(wheel, tmp_path):
    site, work = tmp_path / "site", tmp_path / "work"
    own_folders(work)
    subprocess.run([*PIP, "install", *OFFLINE, "--target", site, wheel], check=True, capture_output=True)
    save_network(work / "tiny.safetensors", random_classifier(), Provenance(name="tiny"))
    surroundings = environment(site, tmp_path / "cache")

    def call(*arguments: str, program: str | Path = sys.executable) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *arguments], cwd=work, env=surroundings, capture_output=True, text=True)

    def run(*arguments: str) -> str:
        done = call(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    _, package, convert, knows_names = run("-c", LOOK).splitlines()[0].split()
    assert package == str(site / "advx_jax" / "__init__.py")
    assert convert == str(site / "advx_jax" / "convert" / "__init__.py")
    assert knows_names == "True"
    explained = call("explain", "--model=tiny.safetensors", "--n_images=1", "--steps=2", program=site / "bin" / "advx")
    assert explained.returncode == 0, explained.stderr
    assert (work / "output" / "index.html").is_file()
    assert len(list((work / "output" / "0-cat").iterdir())) == 13
    run("-m", "advx_jax.convert", "--to_pt", "tiny.safetensors", "--output_dir=.")
    assert (work / "tiny.pt").is_file()
    # The recipe comes with the package; a value that is refused saves the time of training.
    refused = call("-m", "advx_jax.train", "--config=configs/smoke.py", "--config.epochs=0")
    assert refused.stderr == "error: config.epochs: expected at least 1, got 0\n"
    # An own file of that name goes first.
    (work / "configs" / "smoke.py").write_text("def get_config():\n    return {'epochs': 3}\n")
    assert "expected the fields name, " in call("-m", "advx_jax.train", "--config=configs/smoke.py").stderr


@pytest.fixture(scope="module")
def editable(tmp_path_factory):
    """A clone that has the package's own name, and the folder that its editable install puts on the path."""
    folder = tmp_path_factory.mktemp("editable")
    source = clone(folder / "advx_jax")
    site = folder / "site"
    subprocess.run([*PIP, "install", *OFFLINE, "--target", site, "-e", source], check=True, capture_output=True)
    (site / "bin").rename(folder / "bin")
    assert {path.suffix for path in site.iterdir()} == {".pth", ".dist-info"}
    (pth,) = site.glob("*.pth")
    return source, Path(pth.read_text().strip())


@pytest.mark.parametrize("where", ["above the clone", "in the clone", "elsewhere"])
@pytest.mark.slow
def test_an_editable_install_is_shadowed_nowhere(where, editable, tmp_path):
    source, site = editable
    if where == "in the clone":
        work = source
    else:
        work = source.parent if where == "above the clone" else tmp_path / "work"
        own_folders(work)
    # What `ara` and `explain` write where they are started.
    for name in ("ara", "output"):
        (source / name).mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        cwd=work, env=environment(site, tmp_path / "cache"), capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, *help_text = done.stdout.splitlines()
    version, package, convert, knows_names = first.split()
    assert version == "0.1.0"
    assert Path(package).resolve() == source / "advx_jax" / "__init__.py"
    assert Path(convert).resolve() == source / "convert" / "__init__.py"
    assert knows_names == "True"
    assert "python -m advx_jax.ara --model=resnet44-all" in "\n".join(help_text)
    script = subprocess.run(
        [source.parent / "bin" / "advx", "ara", "--help"],
        cwd=work, env=environment(site, tmp_path / "cache"), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert script.stdout.splitlines() == help_text


@pytest.mark.slow
def test_the_clone_converts_under_the_short_name_too(editable, tmp_path):
    source, site = editable
    command = [sys.executable, "-m", "convert", "--help"]
    surroundings = environment(site, tmp_path / "cache")
    done = subprocess.run(command, cwd=source, env=surroundings, capture_output=True, text=True, check=True)
    assert "python -m advx_jax.convert" in done.stdout
