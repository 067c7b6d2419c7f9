"""Commands as processes of their own, as a person starts them."""

import atexit
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from compiling import QUICK_FLAGS
from warm_process import call_warm

# ml_collections loads configs in an old way of Python's; all other warnings are errors.
WARNINGS = ("-W", "error", "-W", "ignore:the load_module() method is deprecated:DeprecationWarning")


@functools.cache
def _common_cache() -> Path:
    """What no command's result hangs on: code that others have compiled, and whether this machine's lanes agree."""
    path = Path(tempfile.mkdtemp(prefix="advx-tests-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def quick_environment(cache: Path) -> dict[str, str]:
    """This process's environment, with a CPU, a cache of their own, and code that is compiled fast.

    What is compiled runs slower and computes the same to within rounding; what is compiled once is there for the
    commands of all tests.
    """
    cache.mkdir(parents=True, exist_ok=True)
    for name in ("compiled", "lanes"):
        (_common_cache() / name).mkdir(exist_ok=True)
        if not (cache / name).exists():
            (cache / name).symlink_to(_common_cache() / name)
    flags = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_FLAGS}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "ADVX_CACHE": str(cache), "XLA_FLAGS": flags.strip()}


def shell_environment(folder: Path) -> dict[str, str]:
    """What a person's shell has, with a CPU and a cache of its own, and code that is compiled fast."""
    environment = quick_environment(folder / "cache")
    # The test process has JAX's own default here; a person's shell has nothing.
    for name in ("CIFAR10_PATH", "TF_CPP_MIN_LOG_LEVEL"):
        environment.pop(name, None)
    return environment


def start(folder: Path, command: str, *arguments: str, **options) -> subprocess.Popen:
    module = [sys.executable, *WARNINGS, "-m", f"advx_jax.{command}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*module, *arguments], cwd=folder, env=shell_environment(folder), **pipes, **options)


def call(folder: Path, command: str, *arguments: str) -> tuple[int, str, str]:
    return call_warm(folder, f"advx_jax.{command}", arguments, shell_environment(folder), WARNINGS)


def succeed(folder: Path, command: str, *arguments: str) -> str:
    status, out, err = call(folder, command, *arguments)
    assert status == 0, err
    return out


def fail(folder: Path, command: str, *arguments: str) -> str:
    """The message of a call that must fail with a single line."""
    status, _, err = call(folder, command, *arguments)
    assert status == 1
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    return lines[0]


def interrupt(process: subprocess.Popen, has_begun: Callable[[], bool]) -> None:
    """Press Ctrl-C once there is something to keep, and look at how the command takes it."""
    deadline = time.monotonic() + 120
    while not has_begun() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; what was finished is kept" in err
    assert "Traceback" not in err


def measure_flags(command: str, sizes: tuple[str, ...], output: str) -> tuple[str, ...]:
    """Flags of a measurement of the tiny network, whose results are to lie in the folder `output`."""
    place = f"{output}/accuracy.json" if command == "evaluate" else output
    return ("--model=tiny.safetensors", *sizes, f"--output={place}")


def interrupted_while_importing(code: str, *arguments: str, folder: Path) -> tuple[int, str]:
    """Status and errors of a process that gets Ctrl-C right after the first line that it prints."""
    command = [sys.executable, "-c", code, *arguments]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    return process.returncode, err
