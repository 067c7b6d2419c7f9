"""Commands in surroundings that nobody planned for: they work and say the same, or refuse in one line."""

import filecmp
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from networks import random_classifier
from processes import interrupted_while_importing, quick_environment

from advx_jax import attacks
from advx_jax.cache import cache_dir
from advx_jax.cli.terminal import spell_out_what_cannot_be_shown
from advx_jax.networks.classifier import Provenance, expected_variables
from advx_jax.networks.files import load_network, save_network

EXPLAIN = ("-m", "advx_jax.explain", "--model=tiny.safetensors", "--n_images=1", "--steps=5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder to work in, with a network in it, whose name is no text in UTF-8."""
    path = tmp_path_factory.mktemp("odd") / os.fsdecode(b"\xff")
    save_network(path / "tiny.safetensors", random_classifier(), Provenance(name="tiny"))
    return path


def call(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    surroundings = {**quick_environment(folder.parent / "cache"), **environment}
    for name in ("CIFAR10_PATH", "TF_CPP_MIN_LOG_LEVEL"):
        surroundings.pop(name, None)
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, timeout=240)


def error_of(done: subprocess.CompletedProcess[bytes]) -> str:
    """The only line of a call that must fail."""
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    return line


def assert_same_files(expected: Path, found: Path) -> None:
    names = sorted(str(path.relative_to(expected)) for path in expected.rglob("*") if path.is_file())
    assert names == sorted(str(path.relative_to(found)) for path in found.rglob("*") if path.is_file())
    assert len(names) > 13
    assert filecmp.cmpfiles(expected, found, names, shallow=False) == (names, [], [])


@pytest.fixture(scope="module")
def plain(folder):
    """Explanations made where nothing is odd but the working folder's name."""
    done = call(folder, *EXPLAIN, "--output=plain")
    assert done.returncode == 0, done.stderr
    return folder / "plain"


@pytest.mark.slow
def test_settings_of_jax_change_no_result(plain, folder):
    """Nor does an interpreter without docstrings, or a terminal of another alphabet; `~` is the home folder."""
    done = call(
        folder,
        "-OO",
        *EXPLAIN,
        "--output=~/explained",
        HOME=str(folder / "home"),
        JAX_ENABLE_X64="1",
        JAX_NUMPY_RANK_PROMOTION="raise",
        JAX_NUMPY_DTYPE_PROMOTION="strict",
        JAX_THREEFRY_PARTITIONABLE="0",
        JAX_DEFAULT_PRNG_IMPL="rbg",
        PYTHONIOENCODING="cp1252",
        LC_ALL="C",
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert_same_files(plain, folder / "home" / "explained")


@pytest.mark.slow
def test_paths_that_are_no_text_and_a_cache_that_cannot_be_written(plain, folder):
    odd = os.fsdecode(b"o\xfe")
    done = call(folder, *EXPLAIN, f"--output={odd}", ADVX_CACHE="tiny.safetensors", JAX_DEBUG_NANS="1")
    assert done.returncode == 0, done.stderr
    assert rb"o\udcfe/index.html" in done.stdout
    # On a busy machine, lines of progress come too.
    (line,) = [line for line in done.stderr.decode().splitlines() if not line.startswith("explain: ")]
    assert line.startswith("compiled code is not kept for the next call: ")
    assert_same_files(plain, folder / odd)


def test_a_workdir_that_checkpoints_cannot_have_is_refused(folder):
    line = error_of(
        call(folder, "-W", "ignore::DeprecationWarning", "-m", "advx_jax.train", "--config=configs/smoke.py")
    )
    assert line.startswith("error: expected a workdir whose whole path is text in UTF-8, got ")
    assert line.endswith(r"\udcff/runs/tiny-smoke")


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_platform_that_is_not_there_is_named(platform, folder):
    line = error_of(call(folder, "-m", "advx_jax.evaluate", "--model=tiny.safetensors", JAX_PLATFORMS=platform))
    assert line.startswith(f"error: cannot compute on JAX_PLATFORMS={platform}: ")


@pytest.mark.slow
def test_help_has_its_examples_without_docstrings(folder):
    done = call(folder, "-OO", "-m", "advx_jax.ara", "--help", PYTHONIOENCODING="ascii")
    assert b"python -m advx_jax.ara --model=resnet44-all" in done.stdout
    # What a package prints for itself is not lost either, whatever its letters.
    assert b"times sqrt3072 they" in done.stdout


def test_importing_the_package_changes_neither_logs_nor_environment_nor_signals(folder):
    code = """
import os, signal
before, handler = dict(os.environ), signal.getsignal(signal.SIGINT)
import advx_jax
from advx_jax.analysis import explanations, robustness_area
from advx_jax.data import cifar10
from advx_jax.networks import registry
import jax
fixed = {"XLA_FLAGS"}  # keeps a wrong jaxlib right
changed = {name for name in before.keys() | os.environ if before.get(name) != os.environ.get(name)} - fixed
# JAX gives itself this level.
assert changed <= {"TF_CPP_MIN_LOG_LEVEL"}, changed
assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "1"
assert signal.getsignal(signal.SIGINT) is handler
assert jax.config.jax_enable_x64
"""
    done = call(folder, "-c", code, JAX_ENABLE_X64="1")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_while_a_command_is_imported_is_a_line(folder):
    code = "import advx_jax.cli.commands; print(flush=True); from advx_jax.train import main; main()"
    done = interrupted_while_importing(code, "--config=configs/smoke.py", folder=folder)
    assert done == (130, "\ninterrupted; what was finished is kept\n")


def test_a_host_in_double_precision_loads_networks_of_single_precision(folder):
    images = jax.numpy.asarray(np.random.default_rng(0).random((2, 32, 32, 3), np.float32))
    logits_of = jax.jit(lambda classifier, images: classifier(images))
    expected = logits_of(load_network(folder / "tiny.safetensors")[0], images)
    with jax.enable_x64(True):
        logits = logits_of(load_network(folder / "tiny.safetensors")[0], images)
        variables = expected_variables(random_classifier().architecture)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, expected)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_nothing_relies_on_the_promotion_of_ranks(norm):
    """A host may forbid it; tracing is where JAX looks."""
    classifier = random_classifier()
    images, labels = jax.numpy.full((2, 32, 32, 3), 0.5), jax.numpy.array([0, 1])

    def trained(images):
        logits, _ = classifier.in_training_mode(images, classifier.variables["batch_stats"])
        return logits.sum()

    with jax.numpy_rank_promotion("raise"):
        jax.eval_shape(jax.grad(trained), images)
        fixed = [attacks.PGD, attacks.APGD, attacks.APGDT, attacks.Square, attacks.FAB, attacks.FABT]
        every = [make(eps=0.1, norm=norm, steps=2) for make in fixed]
        smallest = [attacks.BEST, attacks.DDN(steps=2), attacks.FMN(steps=2, norm=norm), attacks.Published(steps=2)]
        every += [a.until(c()) for a in smallest for c in (attacks.Misclassified, attacks.NoBetterThanRandom)]
        for attack in (*every, attacks.EXPLANATION, attacks.PublishedBounded()):
            jax.eval_shape(lambda x, attack=attack: attack(classifier, x, labels), images)


def test_any_text_can_be_printed_on_any_terminal(monkeypatch, tmp_path):
    with (tmp_path / "out").open("w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        spell_out_what_cannot_be_shown()
        print("ρ ≤ ∞, ψ·½ …, 猫 \udcff")
    assert (tmp_path / "out").read_text() == "rho <= inf, psi*1/2 ..., \\u732b \\udcff\n"


def test_folders_of_the_environment_may_be_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ADVX_CACHE", "~/kept")
    assert cache_dir() == tmp_path / "kept"
    assert not Path("~").exists()


def test_a_user_without_a_home_has_a_cache_of_their_own(monkeypatch, tmp_path):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("ADVX_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache_dir() == tmp_path / f"advx_jax-{os.getuid()}"
    assert cache_dir().stat().st_mode & 0o077 == 0


def test_too_little_memory_is_a_line(folder):
    """XLA's own error, of an array that no machine has room for."""
    code = "from advx_jax.cli.commands import end_process_after; import jax; "
    line = error_of(call(folder, "-c", code + "end_process_after(lambda: jax.numpy.zeros(2**45).block_until_ready())"))
    assert line.startswith("error: not enough memory: RESOURCE_EXHAUSTED")
    assert line.endswith("; ask for fewer images at once")
