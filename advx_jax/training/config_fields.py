"""The fields of a config: what their values may be, and in which two configs differ."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from advx_jax.errors import UserError
from advx_jax.messages import nearest
from advx_jax.networks.architecture import Architecture

NO_FIELD = "no field of a config"
"""Marks, in the metadata of a dataclass's field, what no config says."""


def build(kind: Any, value: Any, where: str) -> Any:
    """Check a value against a type and build it.

    Args:
        kind: of a field: a dataclass, whose fields are those of the config; a tuple, a literal, an optional or a
            plain type.
        value: as the config has it.
        where: its name, for messages.

    Raises:
        UserError: a field is missing, unknown (the nearest known one is named) or of the wrong type.
    """
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        (kind,) = [option for option in typing.get_args(kind) if option is not type(None)]
        return None if value is None else build(kind, value, where)
    if kind is Architecture:
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: expected fields, got {value!r}")
        own = {field.name for field in dataclasses.fields(kind) if NO_FIELD not in field.metadata}
        hints = {name: hint for name, hint in typing.get_type_hints(kind).items() if name in own}
        for name in value:
            if name not in hints:
                raise UserError(f"{where}.{name}: no such field{nearest(name, hints, 0.0)}")
        newer = {field.name for field in dataclasses.fields(kind) if field.default is not dataclasses.MISSING}
        missing = [name for name in hints if name not in value and name not in newer]
        if missing:
            raise UserError(f"{where}: expected the fields {', '.join(missing)} too, got {', '.join(value)}")
        return kind(**{name: build(hints[name], value[name], f"{where}.{name}") for name in hints if name in value})
    if origin is Literal:
        if value not in typing.get_args(kind):
            raise UserError(f"{where}: expected one of {', '.join(typing.get_args(kind))}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: expected a list, got {value!r}")
        element = typing.get_args(kind)[0]
        return tuple(build(element, item, where) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: expected a finite number, got {value}")
    if type(value) is not kind:
        raise UserError(f"{where}: expected a value of type {kind.__name__}, got {value!r}")
    return value


def expect(holds: bool, field: str, expected: str, got: object) -> None:
    """Make sure that a field is as it must be.

    Args:
        holds: whether it is.
        field: its name, for instance "attack.eps".
        expected: in words.
        got: its value.

    Raises:
        UserError: it is not.
    """
    if not holds:
        raise UserError(f"config.{field}: expected {expected}, got {got}")


def at_least(least: int, part: str = "", **numbers: int | float) -> None:
    """Make sure that numbers of a part of a config are not too small.

    Raises:
        UserError: one is.
    """
    for name, number in numbers.items():
        expect(number >= least, f"{part}{name}", f"at least {least}", number)


def above_zero(part: str, **numbers: int | float) -> None:
    """Make sure that numbers of a part of a config are positive.

    Raises:
        UserError: one is not.
    """
    for name, number in numbers.items():
        expect(number > 0, f"{part}{name}", "a number above 0", number)


def probability(part: str, **numbers: int | float) -> None:
    """Make sure that numbers of a part of a config are probabilities.

    Raises:
        UserError: one is not.
    """
    for name, number in numbers.items():
        expect(0 <= number <= 1, f"{part}{name}", "a probability from 0 to 1", number)


def differing_fields(expected: Mapping[str, Any], got: Mapping[str, Any], ignored: tuple[str, ...] = ()) -> list[str]:
    """Name the fields in which two configs differ, with both values, one in a string."""
    left, right = _flat(expected), _flat(got)
    absent = "nothing"
    return [
        f"{name}: {left.get(name, absent)!s:.200} there, {right.get(name, absent)!s:.200} now"
        for name in sorted(left.keys() | right.keys())
        if left.get(name, absent) != right.get(name, absent) and not name.startswith(ignored)
    ]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat
