"""What all commands have in common: settings of JAX, flags, help, one-line errors, exit statuses.

Commands import this module before any other of the package (the linter's settings see to that), because JAX reads its
settings when it is imported, and because Ctrl-C must be answered from the start.
"""

import ast
import inspect
import os
import re
import signal
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from absl import flags

from advx_jax import _runtime
from advx_jax.cli.terminal import spell_out_what_cannot_be_shown
from advx_jax.errors import UserError
from advx_jax.messages import one_line

_HELP = flags.DEFINE_boolean("help", False, "Show this help.", short_name="h")
_INTERRUPTED = "\ninterrupted; what was finished is kept\n"


def _leave(_: int, __: types.FrameType | None) -> NoReturn:
    """End the process: an exception could be lost where JAX calls back, and takes a traceback through the imports."""
    os.write(2, _INTERRUPTED.encode())
    os._exit(130)


def _begin() -> None:
    if "jax" in sys.modules:
        # Somebody imports a command into a process of their own: JAX has its settings there, and Ctrl-C its answer.
        return
    _runtime.quieten_loading_of_compiled_code()
    _runtime.compute_as_documented()
    # Ctrl-C stays ignored where it is (`nohup`, a background job of a script).
    mine = threading.current_thread() is threading.main_thread()
    if mine and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


_begin()


def command(
    parse: Callable[[list[str]], list[str]] | None = None, *, leave_at_once: bool = False
) -> Callable[[Callable[[list[str]], None]], Callable[[], NoReturn]]:
    """Decorate what gets the positional arguments, after the flags were parsed, to be a command of the process.

    The module around it has the command's flags, and its description and examples as docstring, which --help shows.

    Args:
        parse: turns the command line into positional arguments; absl's own parser if None.
        leave_at_once: Ctrl-C ends the process where it stands, unless the command has an answer of its own; otherwise
            it raises KeyboardInterrupt.

    Returns:
        The decorator. What it makes works on `sys.argv` and ends the process, see `end_process_after`.
    """

    def decorated(main: Callable[[list[str]], None]) -> Callable[[], NoReturn]:
        def work() -> None:
            argv = [_at_home(argument) for argument in sys.argv]
            arguments = parse(argv) if parse else flags.FLAGS(argv)[1:]
            if _HELP.value:
                print(_help(main), flush=True)  # as long as a reader who left is answered
                return
            if not leave_at_once and signal.getsignal(signal.SIGINT) is _leave:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            main(arguments)

        return lambda: end_process_after(work)

    return decorated


def end_process_after(work: Callable[[], None]) -> NoReturn:
    """Work, and end the process with the status that a shell expects.

    Raises:
        SystemExit: always; status 0 if `work` returned, 1 for bad input, 130 if interrupted.
    """
    spell_out_what_cannot_be_shown()
    try:
        work()
    except (UserError, flags.Error) as error:
        sys.exit(f"error: {one_line(str(error))}")
    except BrokenPipeError:
        # The reader of our output left (`| head`); keep Python from complaining at shutdown.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        # A full disk or a folder that must not be written: the system says what, a traceback adds nothing.
        sys.exit(f"error: {one_line(str(error))}")
    except Exception as error:
        if not (reason := _too_little_memory(error) or _why_jax_cannot_start()):
            raise
        sys.exit(f"error: {one_line(reason)}")
    except KeyboardInterrupt:
        sys.stderr.write(_INTERRUPTED)
        sys.exit(130)
    sys.exit(0)


def _too_little_memory(error: Exception) -> str:
    """Say that memory was too small for what was asked for; empty if that is not what an error is about."""
    text = str(error)
    if not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text):
        return ""
    return f"not enough memory: {text.splitlines()[0] if text else 'none left'}; ask for fewer images at once"


def _why_jax_cannot_start() -> str:
    """Tell why JAX has nothing to compute on; empty if it has. Its errors are of all kinds, some without a word."""
    asked = os.environ.get("JAX_PLATFORMS")
    jax = sys.modules.get("jax")
    if not asked or jax is None:
        return ""
    try:
        jax.devices()
    except Exception as error:
        said = str(error) or "there is no such device, or the jaxlib installed does not know it"
        return f"cannot compute on JAX_PLATFORMS={asked}: {said}; unset it to compute on what there is"
    return ""


def _at_home(argument: str) -> str:
    """Give `--flag=~/x` the home folder, which the shell puts in only where a word begins."""
    flag, folder = re.fullmatch(r"(-[^=]*=)?(.*)", argument, re.DOTALL).groups("")  # type: ignore[union-attr]
    return flag + os.path.expanduser(folder) if folder.startswith("~") else argument  # noqa: PTH111 (not only paths)


def _help(main: Callable[[list[str]], None]) -> str:
    """A command's description, examples and flags."""
    # absl knows what Python was started with by that name.
    module = sys.argv[0] if main.__module__ == "__main__" else main.__module__
    listed = flags.FLAGS.module_help(module).removeprefix(f"\n{module}:")
    return f"{description(inspect.getsourcefile(main))}\n\nFlags:{listed}"


def description(source: str | Path | None) -> str:
    """The docstring of a source file, also where Python was told to leave docstrings out (-OO)."""
    return ast.get_docstring(ast.parse(Path(source).read_text(encoding="utf-8"))) or "" if source else ""


def no_arguments(arguments: list[str]) -> None:
    """Refuse positional arguments for a command that takes flags only.

    Raises:
        UserError: there are any.
    """
    if arguments:
        raise UserError(f"expected flags only (--name=value), got {' '.join(arguments)!r}")
