"""JSON from files that may be anybody's, without what Python reads as numbers and JSON or a float does not have."""

import json
from typing import Any, NoReturn


def parsed_json(text: str | bytes) -> Any:
    """What a text holds.

    Raises:
        ValueError: it is no JSON; or has NaN, an infinity, or a whole number beyond the range of floats.
        RecursionError: it is nested deeper than Python can read.
    """
    return json.loads(text, parse_constant=_refuse_constant, parse_int=_whole_number)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _whole_number(digits: str) -> int:
    number = int(digits)
    try:
        float(number)
    except OverflowError:
        raise ValueError(f"expected numbers in the range of floats, got one of {len(digits)} digits") from None
    return number
