"""Objects of a person's own, by the place of their code: `package.module:name`."""

import functools
import hashlib
import importlib
import inspect
import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advx_jax.errors import UserError
from advx_jax.messages import nearest


def is_import_name(text: str) -> bool:
    """Whether it can only mean `package.module:name`, and neither a path nor a name of something that is known."""
    module, colon, attribute = text.partition(":")
    return bool(colon) and attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))


def find_by_name(name: str, known: Mapping[str, Any], flag: str, what: str) -> Any:
    """What has a name here, or what a person names.

    Args:
        name: one of `known`, in any case; or `package.module:name`.
        known: by their names.
        flag: that it was given by, for messages.
        what: it should be, with its article, for messages: "an attack".

    Raises:
        UserError: see `import_by_name`; or there is none of that name.
    """
    if name.lower() in known:
        return known[name.lower()]
    if ":" not in name:
        hint = nearest(name.lower(), known)
        raise UserError(f"expected {what} ({', '.join(known)}) or package.module:name, got {name!r}{hint}")
    return import_by_name(name, flag, what)


def made(name: str, maker: Any, what: str, **settings: Any) -> Any:
    """What a class or function makes with settings; what cannot be called is that already.

    Args:
        name: that it was found by, for messages.
        maker: what was found.
        what: it should make, with its article.
        settings: to call it with.

    Raises:
        UserError: it takes others.
    """
    if not callable(maker):
        return maker
    try:
        return maker(**settings)
    except TypeError as error:
        given = ", ".join(settings) or "no arguments"
        raise UserError(f"cannot make {what} of {name} with {given}: {error}") from error


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
        hint = nearest(attribute, vars(loaded))
        raise UserError(f"expected {module} to have {what} {attribute!r}, got none of that name{hint}")
    return getattr(loaded, attribute)


def code_settings(thing: object) -> dict[str, str]:
    """A digest of the code of a person's own class, as a setting: results of code that was changed are others.

    Args:
        thing: of the class. Its module counts whole, with what the class calls there; of a script and of a notebook
            only the class itself.

    Returns:
        Nothing for classes of this package, and where nobody has the source.
    """
    sources = [
        source
        # A class of one's own stands before that of this package from which it is derived.
        for cls in itertools.takewhile(lambda cls: cls.__module__.partition(".")[0] != __package__, type(thing).__mro__)
        if (source := _source_of(cls)) is not None
    ]
    return (
        {"code_sha256": hashlib.sha256("".join(sources).encode("utf-8", "surrogatepass")).hexdigest()[:16]}
        if sources
        else {}
    )


@functools.cache
def _source_of(cls: type) -> str | None:
    """The source of a class, as it was when it was first asked for: the file may change while the class stays."""
    try:
        source = inspect.getsource(cls if cls.__module__ == "__main__" else sys.modules[cls.__module__])
    except (OSError, TypeError, KeyError):
        return None
    return source
