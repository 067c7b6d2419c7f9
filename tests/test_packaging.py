"""A built wheel, installed outside the clone, has everything that the commands need."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from networks import random_classifier

from advx_jax.networks.classifier import Provenance
from advx_jax.networks.files import save_network

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The project's wheel, built from a copy so that the clone gets no build folders."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns(".git", "__pycache__", "*.egg-info", "build", "output", "tests", "*.pt", ".venv")
    shutil.copytree(ROOT, source, ignore=ignored)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, source]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_has_the_packages_and_their_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "advx_jax/data/cifar10_sample.npz",
        "advx_jax/reports/gallery.html.j2",
        "advx_jax/py.typed",
        "configs/robust.py",
        "convert/__main__.py",
        "prebuilt/manifest.json",
    ):
        assert name in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"advx_jax", "configs", "convert", "prebuilt"}


def test_installed_wheel_explains_outside_the_clone(wheel, tmp_path):
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    save_network(work / "tiny.safetensors", random_classifier(), Provenance(name="tiny"))
    environment = {**os.environ, "PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu", "ADVX_CACHE": str(tmp_path / "cache")}
    environment.pop("CIFAR10_PATH", None)

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *arguments], cwd=work, env=environment, capture_output=True, text=True)

    def run(*arguments: str) -> str:
        done = call(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    found = run("-c", "import advx_jax, configs, convert, prebuilt; print(advx_jax.__file__, configs.__file__)")
    assert all(path.startswith(str(site)) for path in found.split())
    run("-m", "advx_jax.explain", "--model=tiny.safetensors", "--n_images=1", "--steps=2")
    assert (work / "output" / "index.html").is_file()
    assert len(list((work / "output" / "0-cat").iterdir())) == 13
    run("-m", "convert", "--to_pt", "tiny.safetensors", "--output_dir=.")
    assert (work / "tiny.pt").is_file()
    # The recipe comes with the package; a value that is refused saves the time of training.
    refused = call("-m", "advx_jax.train", "--config=configs/smoke.py", "--config.epochs=0")
    assert refused.stderr == "error: config.epochs: expected at least 1, got 0\n"
