"""The order of the house: imports run downwards only, and bad releases of JAX stay out."""

import ast
import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packaging.requirements import Requirement

import advx_jax
import advx_jax.configs

PACKAGE = Path(advx_jax.__file__).parent
CONFIGS = Path(advx_jax.configs.__path__[0])
DOORS = ("__main__", "evaluate", "explain", "ara", "robustness", "attackbench", "faithfulness", "train")
# From top to bottom; a room may import from itself and from those below it. The doors stand above them all.
FLOORS = ["cli", "runs", "reports", "training", "analysis", "attacks", "networks", "data"]
# Folders at the top of the repository that are part of the package: links in a clone, folders in a wheel.
LINKED = {"configs", "convert", "prebuilt"}
# What every room may use, and what may therefore use no room.
GROUND = {"errors", "files", "cache", "_runtime", "names", "progress", "messages", "importing", "strict_json"}


def imported_modules(path: Path) -> set[str]:
    """Modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if path.parent.name == "convert" and node.level == 1:
                # Lies at the top of a clone, too, where `python -m convert` runs it under that name.
                continue
            assert node.level == 0, f"{path} has a relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    rooms = {name.split(".")[1] for name in imported_modules(path) if name.startswith("advx_jax.")}
    if room in FLOORS:
        above = set(FLOORS[: FLOORS.index(room)])
        if path == PACKAGE / "data" / "cifar10.py":
            above -= {"cli"}  # `python -m advx_jax.data.cifar10` is a door that lies in a room.
        doors = {other.stem for other in PACKAGE.glob("*.py")} - GROUND - {"__init__"}
        assert not rooms & (above | doors), f"{room} imports from above"
    if room in GROUND:
        assert rooms <= GROUND, f"{room} imports a room"


def test_every_module_beside_the_rooms_is_known():
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", "api", *GROUND, *DOORS}
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and not path.name.startswith("__")}
    assert rooms == {*FLOORS, *LINKED}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.name)
def test_configs_are_data(path):
    """A recipe can be read and copied without knowing the package; only the training command looks for them."""
    assert all(name.startswith(("advx_jax.configs", "ml_collections")) for name in imported_modules(path))


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_training_command_knows_the_configs(path):
    assert "advx_jax.configs" not in imported_modules(path)


@pytest.mark.parametrize("name", sorted(LINKED))
def test_what_an_own_folder_could_shadow_is_imported_from_inside_the_package(name):
    """A folder `./prebuilt` or `./configs` of somebody's own must never stand in for the package's."""
    benchmarks = PACKAGE.parent / "benchmarks"
    everything = [*files(), *(path for folder in LINKED for path in (PACKAGE / folder).glob("*.py"))]
    for path in (*everything, *benchmarks.glob("*.py")):
        assert name not in {module.split(".")[0] for module in imported_modules(path)}, path


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_pytorch_stays_outside(path):
    roots = {name.split(".")[0] for name in imported_modules(path)}
    assert "torch" not in roots
    if path != PACKAGE / "networks" / "registry.py":
        assert "advx_jax.convert" not in imported_modules(path)


NEEDED_LATE = (
    *("torch", "tensorflow_datasets", "matplotlib", "advx_jax.convert"),
    *("jinja2", "pooch", "requests", "tensorboardX"),
)


@pytest.mark.parametrize(("door", "slow"), [("explain", (*NEEDED_LATE, "orbax", "optax")), ("train", NEEDED_LATE)])
def test_commands_start_without_what_they_may_not_need(door, slow):
    code = f"import sys, advx_jax.{door}; print(*sys.modules)"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout.split()
    assert not set(slow) & set(loaded)


@pytest.mark.parametrize("door", DOORS)
def test_doors_are_short(door):
    assert len((PACKAGE / f"{door}.py").read_text().splitlines()) < 80


@pytest.mark.parametrize(
    ("python", "right", "wrong"),
    [
        ("3.11", ["0.9.2"], ["0.8.3", "0.10.0", "0.10.1", "0.10.2"]),
        ("3.12", ["0.12.0.1"], ["0.9.2", "0.10.2", "0.11.2", "0.12.0"]),
        ("3.13", ["0.12.0.1", "0.12.1", "0.13.0"], ["0.8.3", "0.10.1", "0.11.2"]),
    ],
)
@pytest.mark.parametrize("name", ["jax", "jaxlib"])
def test_releases_that_compute_wrong_gradients_in_two_lanes_are_kept_out(name, python, right, wrong):
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [Requirement(line) for line in project["dependencies"]]
    (specifier,) = [
        r.specifier
        for r in requirements
        if r.name == name and (r.marker is None or r.marker.evaluate({"python_version": python}))
    ]
    assert all(version in specifier for version in right)
    assert not any(version in specifier for version in wrong)


@pytest.mark.parametrize(("dtype", "n"), [("float32", 32_769), ("float64", 16_385)])
def test_symptom_of_the_bad_jaxlib_does_not_show(dtype, n):
    with jax.enable_x64(dtype == "float64"):
        column = np.arange(n, dtype=dtype)
        rows = jnp.asarray(np.stack([column, 0 * column, 0 * column], axis=1))
        matrix = jnp.eye(3, dtype=dtype)
        found = jax.jit(jax.vmap(lambda row: jnp.square(matrix @ row).sum()))(rows)
        np.testing.assert_array_equal(found, column**2)


@pytest.mark.parametrize(
    ("version", "before", "after"),
    [
        ("0.10.1", "", "--xla_cpu_experimental_ynn_fusion_type="),
        ("0.11.2", "--xla_a=1", "--xla_a=1 --xla_cpu_experimental_ynn_fusion_type="),
        ("0.11.2", "--xla_cpu_experimental_ynn_fusion_type=x", "--xla_cpu_experimental_ynn_fusion_type=x"),
        ("0.12.0.1", "", "--xla_cpu_experimental_ynn_fusion_type="),
        ("0.12.0.1", "--xla_cpu_experimental_ynn_fusion_type=dot", "--xla_cpu_experimental_ynn_fusion_type=dot"),
        ("0.9.2", "--xla_a=1", "--xla_a=1"),
        ("0.13.0", "--xla_a=1", "--xla_a=1"),
    ],
)
def test_fusion_that_is_wrong_or_slow_is_switched_off_where_it_exists(version, before, after, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    monkeypatch.setenv("XLA_FLAGS", before)
    advx_jax._runtime.switch_off_fusion()
    assert os.environ["XLA_FLAGS"] == after
