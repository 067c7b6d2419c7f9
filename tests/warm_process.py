"""Short commands in forks of one process that has what they import: importing is most of what such a call costs.

A fork begins where `python -m` begins to run the command's module: it parses its own flags, starts its own JAX, and
its status, output and errors are those of a process. What is imported is read from the files once in a test process.
"""

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

_SERVER = """
import gc, importlib, json, os, pkgutil, runpy, sys
import advx_jax.cli.commands  # first, as in every command: JAX reads its settings when it is imported
import advx_jax
for room in ("analysis", "attacks", "networks", "reports", "runs"):
    package = importlib.import_module(f"advx_jax.{room}")
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
# Ending a fork would look through all that is imported for garbage.
gc.collect()
gc.freeze()
for line in sys.stdin:
    job = json.loads(line)
    pid = os.fork()
    if pid:
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        continue
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    for number, name in enumerate((os.devnull, job["out"], job["err"])):
        os.dup2(os.open(name, os.O_RDWR), number)
    sys.argv = job["argv"]
    sys.path[0] = job["folder"]
    runpy.run_module(job["argv"][0], run_name="__main__", alter_sys=True)
    break
"""


class WarmProcess:
    """A process whose forks run commands, one after another."""

    def __init__(self, options: tuple[str, ...], environment: dict[str, str]) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        # A session of its own, so that all that it started can be ended.
        command = [sys.executable, *options, "-c", _SERVER]
        self._process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
        atexit.register(self._end)

    def call(
        self, folder: Path, module: str, arguments: tuple[str, ...], environment: dict[str, str], seconds: float
    ) -> tuple[int, str, str]:
        """Status, output and errors of `python -m module`; raises TimeoutExpired after so many seconds."""
        with tempfile.TemporaryDirectory() as said:
            out, err = Path(said, "out"), Path(said, "err")
            for path in (out, err):
                path.touch()
            job = {"folder": str(folder), "argv": [module, *arguments], "environment": environment}
            self._process.stdin.write(json.dumps(job | {"out": str(out), "err": str(err)}) + "\n")
            self._process.stdin.flush()
            if not select.select([self._process.stdout], [], [], seconds)[0]:
                self._end()
                warm_process.cache_clear()
                raise subprocess.TimeoutExpired([module, *arguments], seconds, out.read_bytes(), err.read_bytes())
            return int(self._process.stdout.readline()), out.read_text(), err.read_text()

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


@functools.cache
def warm_process(options: tuple[str, ...], environment: tuple[tuple[str, str], ...]) -> WarmProcess:
    """The process for what Python and JAX read when they start."""
    return WarmProcess(options, dict(environment))


def call_warm(
    folder: Path,
    module: str,
    arguments: tuple[str, ...],
    environment: dict[str, str],
    options: tuple[str, ...] = (),
    seconds: float = 240,
) -> tuple[int, str, str]:
    """Status, output and errors of `python OPTIONS -m module arguments` in a folder."""
    # Other settings of Python, JAX or the system's libraries need another process.
    ours = {name: value for name, value in environment.items() if not name.startswith(("ADVX_", "PYTEST_"))}
    return warm_process(options, tuple(sorted(ours.items()))).call(folder, module, arguments, environment, seconds)
