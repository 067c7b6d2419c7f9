"""The one kind of error that a person is meant to read."""


class UserError(ValueError):
    """Bad input from outside: a flag, a file, an array of the wrong shape.

    The message is one line that says what was expected and what came. The commands print it
    without a traceback and exit with status 1.
    """
