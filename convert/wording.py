"""Values from a file that nobody vouches for, made fit for a one-line error."""

from collections.abc import Sequence

_LONGEST = 60
_MOST_PROBLEMS = 8


def shown(value: object) -> str:
    """Describe a value briefly; never walk into a container, whose content may be endless."""
    if isinstance(value, str):
        cut = value if len(value) <= _LONGEST else value[:_LONGEST] + "…"
        return ascii(cut)
    # A very long integer would make str() itself fail.
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and value.bit_length() <= 64):
        return repr(value)
    return f"a value of type {type(value).__name__}"


def listed(problems: Sequence[str]) -> str:
    """Join problems into one line, the first few of a long list and the number of the others."""
    line = "; ".join(problems[:_MOST_PROBLEMS])
    others = len(problems) - _MOST_PROBLEMS
    return f"{line}; … and {others} more" if others > 0 else line
