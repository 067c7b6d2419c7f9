"""The one kind of error that a person is meant to read."""

from advx_jax.messages import one_line


class UserError(ValueError):
    """Bad input from outside: a flag, a file, an array of the wrong shape.

    The message is one line that says what was expected and what came. It may quote what stands in a
    file: nothing in it makes a terminal do anything. The commands print it without a traceback and
    exit with status 1.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))
