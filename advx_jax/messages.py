"""What people are told in one line, values from files that nobody vouches for made fit for it."""

import difflib
import functools
import sys
from collections.abc import Iterable, Sequence

# How alike an unknown name must be to a known one for that to be offered, unless there is a reason for another bound.
_SIMILAR_ENOUGH = 0.6
_LONGEST = 60
_MOST_PROBLEMS = 8
# Of a whole message; where it is longer, what went wrong stands at its end.
_LONGEST_LINE = 2000
_END_OF_LINE = 800


def one_line(text: str) -> str:
    r"""Turn any text into one line that is safe to print.

    White space becomes single spaces. What a terminal would act on instead of showing it (control
    characters, marks that turn the writing direction around, halves of surrogate pairs) is written as in
    Python: `\x1b`. A line of more than 2000 characters loses its middle.
    """
    line = " ".join(text.split())
    if len(line) > _LONGEST_LINE:
        line = f"{line[: _LONGEST_LINE - _END_OF_LINE]} … {line[-_END_OF_LINE:]}"
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)


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


def nearest(name: str, known: Iterable[str], least_similar: float = _SIMILAR_ENOUGH) -> str:
    """Say which known name is nearest to an unknown one, to be put behind an error.

    Args:
        name: the unknown one.
        known: the others.
        least_similar: what is less similar is not worth saying; from 0 to 1, as `difflib` measures it.
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=least_similar)
    return f"; did you mean {close[0]}?" if close else ""


def size_in_words(shape: Sequence[int]) -> str:
    """The shape of an array as people write it: 32×32×3."""
    return "×".join(map(str, shape)) or "1"


@functools.cache
def say_once(line: str) -> None:
    """Write a line to standard error, unless this process has done so before."""
    sys.stderr.write(f"{line}\n")
