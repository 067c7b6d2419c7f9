"""Lists of names with settings on the command line: `gradient,smoothgrad(samples=16),mine:Method`."""

import ast
import re
from collections.abc import Callable
from typing import Any, TypeVar

from advx_jax.analysis.attribution.base import Attribution
from advx_jax.errors import UserError

Named = TypeVar("Named")

_ITEM = re.compile(r"([^()]+?)\s*(?:\((.*)\))?", re.DOTALL)


def read_named(text: str, find: Callable[[str], Named], flag: str) -> dict[str, Named]:
    """Find what a list names, and change it by the settings behind each name.

    Args:
        text: names with commas between them, each with settings in brackets if others than the usual ones are meant.
        find: gives what a name stands for; it has `with_settings`.
        flag: that the list was given by, for messages.

    Returns:
        By the names that they have in results: with `_` for `-`, and with their settings only where one name stands
        for several.

    Raises:
        UserError: nothing is named so, there are no such settings, or two are equal.
    """
    items = [_item(part.strip(), flag) for part in _parts(text) if part.strip()]
    if not items:
        raise UserError(f"expected names in --{flag}, got {text!r}")
    names = [name for name, _ in items]
    found: dict[str, Named] = {}
    for name, settings in items:
        one: Any = find(name)
        label = name
        if settings:
            one = one.with_settings(**{key: _inner(one, key, value, find, flag) for key, value in settings.items()})
        if settings and names.count(name) > 1:
            label += "(" + ",".join(f"{key}={value}" for key, value in settings.items()) + ")"
        if label in found:
            raise UserError(f"expected each name once, or with other settings, in --{flag}, got {label} twice")
        found[label] = one
    return found


def _inner(one: Any, name: str, value: Any, find: Callable[[str], Named], flag: str) -> Any:
    """A setting's value; a method inside another is named as that one is."""
    if isinstance(getattr(one, name, None), Attribution):
        return next(iter(read_named(str(value), find, flag).values()))
    return value


def _item(text: str, flag: str) -> tuple[str, dict[str, Any]]:
    match = _ITEM.fullmatch(text)
    if match is None:
        raise UserError(f"expected names with settings in brackets, name(setting=1), in --{flag}, got {text!r}")
    name = match[1] if ":" in match[1] else match[1].lower().replace("-", "_")
    return name, _settings(match[2], flag, text) if match[2] else {}


def _settings(text: str, flag: str, item: str) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for part in _parts(text):
        name, equals, value = part.partition("=")
        if not equals or not name.strip().isidentifier() or not value.strip():
            raise UserError(f"expected settings as name=value in the brackets of --{flag}, got {item!r}")
        settings[name.strip()] = _value(value.strip())
    return settings


def _parts(text: str) -> list[str]:
    """What stands between the commas that no brackets enclose."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _value(text: str) -> Any:
    """A number, a truth value, None, or else a word."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
