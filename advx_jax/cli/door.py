"""What `advx` and `python -m advx_jax` do: they open the command that is named, and list those that there are."""

import contextlib
import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import advx_jax
from advx_jax.cli.commands import description, end_process_after
from advx_jax.errors import UserError
from advx_jax.messages import nearest

COMMANDS = {
    "explain": "advx_jax.explain",
    "evaluate": "advx_jax.evaluate",
    "ara": "advx_jax.ara",
    "robustness": "advx_jax.robustness",
    "attackbench": "advx_jax.attackbench",
    "faithfulness": "advx_jax.faithfulness",
    "train": "advx_jax.train",
    "convert": "advx_jax.convert.__main__",
    "data": "advx_jax.cli.data",
}
"""Names of the commands, and the modules whose `main` they call."""

_HELP = ("--help", "-h", "help")
_VERSION = "--version"


def main() -> NoReturn:
    """Call the command that is the first argument of the process, with the others; or say which there are."""
    if sys.argv[1:2] == ["help"] and len(sys.argv) > 2:
        sys.argv[1:3] = [sys.argv[2], "--help"]
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name not in COMMANDS:
        end_process_after(lambda: _answer(name))
    del sys.argv[1]
    # Only the one that is asked for: each has flags of its own, and some of them the same names.
    command: Callable[[], NoReturn] = importlib.import_module(COMMANDS[name]).main
    _look_for_modules_in_the_working_folder()
    command()


def _answer(name: str) -> None:
    """Say what is asked for in place of a command.

    Raises:
        UserError: nothing is that has this name.
    """
    if name in _HELP:
        print(_overview(), flush=True)
    elif name == _VERSION:
        releases = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("jax", "jaxlib"))
        print(f"advx_jax {advx_jax.__version__} ({releases}, Python {platform.python_version()})", flush=True)
    else:
        hint = nearest(name, [*COMMANDS, *_HELP, _VERSION])
        raise UserError(f"expected a command ({', '.join(COMMANDS)}) as the first word, got {name!r}{hint}")


def _overview() -> str:
    """All commands with the first lines of their descriptions, for which none of them is imported."""
    package = Path(advx_jax.__file__).parent
    width = max(map(len, COMMANDS))
    lines = [
        f"    advx {name:{width}}  {_first_line(package.joinpath(*module.split('.')[1:]).with_suffix('.py'))}"
        for name, module in COMMANDS.items()
    ]
    return "\n".join(
        [
            _first_line(Path(advx_jax.__file__)),
            "",
            *lines,
            "",
            "advx COMMAND --help shows examples and all flags. advx --version tells the releases of this and of JAX.",
            "Where advx is not found, python -m advx_jax is the same.",
        ]
    )


def _first_line(source: Path) -> str:
    return description(source).partition("\n")[0]


def _look_for_modules_in_the_working_folder() -> None:
    """Let `--attack=module:name` find what it finds with `python -m`, which looks there first; a script does not."""
    with contextlib.suppress(OSError):
        here = os.getcwd()  # noqa: PTH109
        if not sys.flags.safe_path and here not in sys.path[:1]:
            sys.path.insert(0, here)
