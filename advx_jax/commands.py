"""What all commands have in common: flags, help, one-line errors, exit statuses."""

import os
import sys
from collections.abc import Callable

from absl import flags

from advx_jax.errors import UserError
from advx_jax.wording import one_line

_HELP = flags.DEFINE_boolean("help", False, "Show this help.", short_name="h")


def run(
    main: Callable[[list[str]], None], doc: str | None, parse: Callable[[list[str]], list[str]] | None = None
) -> None:
    """Run a command and end the process with the status that a shell expects.

    Args:
        main: gets the positional arguments, after the flags were parsed.
        doc: the command's description and examples, shown by --help.
        parse: turns the command line into positional arguments; absl's own parser if None.

    Raises:
        SystemExit: always; status 0 if `main` returned or help was asked for, 1 for bad input,
            130 if interrupted.
    """
    try:
        arguments = parse(sys.argv) if parse else flags.FLAGS(sys.argv)[1:]
        if _HELP.value:
            print(f"{(doc or '').strip()}\n\nFlags:{flags.FLAGS.main_module_help()}")
            sys.exit(0)
        main(arguments)
    except (UserError, flags.Error) as error:
        sys.exit(f"error: {one_line(str(error))}")
    except BrokenPipeError:
        # The reader of our output left (`| head`); keep Python from complaining at shutdown.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        # A full disk or a folder that must not be written: the system says what, a traceback adds nothing.
        sys.exit(f"error: {one_line(str(error))}")
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; what was finished is kept\n")
        sys.exit(130)
    sys.exit(0)


def no_arguments(arguments: list[str]) -> None:
    """Refuse positional arguments for a command that takes flags only.

    Raises:
        UserError: there are any.
    """
    if arguments:
        raise UserError(f"expected flags only (--name=value), got {' '.join(arguments)!r}")
