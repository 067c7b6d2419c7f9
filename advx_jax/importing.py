"""Objects of a person's own, by the place of their code: `package.module:name`."""

import importlib
import sys
from pathlib import Path
from typing import Any

from advx_jax.errors import UserError
from advx_jax.messages import nearest

# How alike a name must be to be offered instead.
_SIMILAR_ENOUGH = 0.6


def is_import_name(text: str) -> bool:
    """Whether it can only mean `package.module:name`, and neither a path nor a name of something that is known."""
    module, colon, attribute = text.partition(":")
    return bool(colon) and attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))


def import_by_name(text: str, flag: str, what: str) -> Any:
    """Import what a person names; modules in the current folder can be imported too.

    Args:
        text: `package.module:name`.
        flag: that it was given by, for messages.
        what: it should be, with its article, for messages: "an attack".

    Raises:
        UserError: it is no such name, the module cannot be imported, or has nothing of that name.
    """
    module, colon, attribute = text.partition(":")
    if not colon or not module or module.endswith(".py"):
        raise UserError(f"expected package.module:name, without .py, for {what} of one's own, got {text!r}")
    if (folder := str(Path.cwd())) not in sys.path:
        # Behind all else: `python -m` has it first, a console script not at all.
        sys.path.append(folder)
    try:
        loaded = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"expected {module} of --{flag}={text} to be a module that can be imported, got {reason}"
        ) from error
    if not hasattr(loaded, attribute):
        hint = nearest(attribute, vars(loaded), _SIMILAR_ENOUGH)
        raise UserError(f"expected {module} to have {what} {attribute!r}, got none of that name{hint}")
    return getattr(loaded, attribute)
