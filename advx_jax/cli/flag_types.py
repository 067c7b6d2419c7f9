"""Kinds of flags: lengths as decimals or fractions, whole numbers, indices; what cannot be is refused by its name."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from advx_jax.attacks.base import Number
from advx_jax.attacks.checks import norm_named
from advx_jax.cache import at_home
from advx_jax.errors import UserError

# Help and messages speak of the module that defines a flag, not of this one.
flags.disclaim_key_flags()

_LARGEST = 2**31 - 1
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
# Job arrays may count with leading zeros.
_SHARD = re.compile(r"0*([1-9]\d{0,5})/0*([1-9]\d{0,5})")


# No image has more than five digits on a side.
_SIZE = re.compile(r"(\d{1,5})(?:[x×,](\d{1,5}))?")


class _Parser(flags.ArgumentParser):
    """Turns what is written after `=` into a value that is in its range."""

    def __init__(self, kind: str, read: Callable[[str], Any], fits: Callable[[Any], str]):
        self.syntactic_help = kind
        self._kind, self._read, self._fits = kind, read, fits

    def parse(self, argument: Any) -> Any:
        """Read a value; also a default, which is no text."""
        try:
            value = self._read(str(argument).strip())
        except (ValueError, ArithmeticError, UserError):
            raise ValueError(f"expected {self._kind}, got {str(argument)!r}") from None
        if wrong := self._fits(value):
            raise ValueError(f"expected {self._kind} {wrong}, got {argument}")
        return value

    def flag_type(self) -> str:
        """For the help."""
        return self._kind


def define_length(name: str, default: Number | None, text: str) -> Any:
    """A flag for a length above 0: `0.0314`, `1e-3`, or `8/255`; its value is a float."""
    kind = "a number or fraction (0.03, 8/255)"
    parser = _Parser(kind, read_number, lambda value: "" if 0 < value < math.inf else "above 0")
    return flags.DEFINE(parser, name, default, text, serializer=flags.ArgumentSerializer())


def define_momentum(name: str, default: Number, text: str) -> Any:
    """A flag for a float of at least 0 and below 1."""
    parser = _Parser("a number", read_number, lambda value: "" if 0 <= value < 1 else "of at least 0 and below 1")
    return flags.DEFINE(parser, name, default, text, serializer=flags.ArgumentSerializer())


def define_whole(name: str, default: int | None, text: str, least: int = 1, most: int = _LARGEST) -> Any:
    """A flag for a whole number, which may be written as `1e3`."""

    def fits(value: int) -> str:
        return f"of at least {least}" if value < least else f"of at most {most}" if value > most else ""

    parser = _Parser("a whole number", _whole, fits)
    return flags.DEFINE(parser, name, default, text, serializer=flags.ArgumentSerializer())


def define_indices(name: str, text: str) -> Any:
    """A flag for indices and ranges of them, both ends included: `3,5` or `0-9,15`; its value is a list of ranges."""
    parser = _Parser("whole numbers or ranges of them (3,5 or 0-9,15)", _ranges, lambda _: "")
    return flags.DEFINE(parser, name, None, text, serializer=flags.ArgumentSerializer())


def define_shard(name: str, text: str) -> Any:
    """A flag for a part of several: `2/4`; its value is the part's index, from 0, and how many there are."""
    kind = "a part of several (1/4 to 4/4)"
    parser = _Parser(kind, _shard, lambda shard: "" if shard[0] < shard[1] else "that is one of them")
    return flags.DEFINE(parser, name, None, text, serializer=flags.ArgumentSerializer())


def define_size(name: str, text: str) -> Any:
    """A flag for the size of images, height first: `224`, `64x48` or `64,48`; its value is (height, width)."""
    parser = _Parser("height and width in pixels (224x224, 64,48)", _size, lambda size: "" if min(size) else "above 0")
    return flags.DEFINE(parser, name, None, text, serializer=flags.ArgumentSerializer())


def define_norm(name: str, default: str | None, text: str, taken: tuple[str, ...] = ("L2", "Linf")) -> Any:
    """A flag for a norm in any usual spelling: `l2`, `linf`, `inf`; its value is `L2` or `Linf`, or what is `taken`."""
    kind = f"{', '.join(taken[:-1])} or {taken[-1]} as the norm"
    parser = _Parser(kind, lambda text: norm_named(text, taken), lambda _: "")
    return flags.DEFINE(parser, name, default, text, serializer=flags.ArgumentSerializer())


def paths_of(flag: Any) -> list[Path]:
    """What the comma list of a flag names; `~` is the home folder, behind commas too."""
    return [at_home(name) for name in flag.value]


def check_alone(flag: Any, *others: Any) -> None:
    """Refuse flags that a command would not heed.

    Args:
        flag: with which it does something of another kind.
        others: that mean something beside it.

    Raises:
        UserError: more are given.
    """
    heeded = [one.name for one in (flag, *others)]
    # Not absl's, which are of its own messages.
    ours = (
        one for module, of_it in flags.FLAGS.flags_by_module_dict().items() if "absl" not in module for one in of_it
    )
    if unheeded := [one.name for one in ours if one.present and one.name not in heeded]:
        beside = " and ".join(f"--{name}" for name in heeded[1:])
        alone = f"with {beside} only" if beside else "alone"
        raise UserError(f"expected --{flag.name} {alone}, got --{unheeded[0]} too")


def distinct_indices(ranges: Sequence[range], available: int) -> tuple[list[int], list[int]]:
    """What `define_indices` gives, one by one.

    Args:
        ranges: as on the command line.
        available: how many images there are.

    Returns:
        The indices in the order in which they are first named, and those that are named again.

    Raises:
        UserError: there is no image of an index.
    """
    # Before they are counted out: a range can have any end.
    beyond = [part for part in ranges if part.stop > available]
    if beyond:
        raise UserError(f"expected --indices from 0 to {available - 1}, got {max(beyond[0].start, available)}")
    counts: dict[int, int] = {}
    for part in ranges:
        for index in part:
            counts[index] = counts.get(index, 0) + 1
    return list(counts), [index for index, count in counts.items() if count > 1]


def check_eps_within_box(eps: float, largest: float, norm: str) -> None:
    """Refuse an eps from which on every image of [0,1] is allowed: it was most likely meant in levels of 255.

    Args:
        eps: as on the command line.
        largest: distance between opposite corners of [0,1] in the norm.
        norm: what eps is, for the message.

    Raises:
        UserError: it is so large.
    """
    if eps >= largest:
        hint = f"; did you mean --eps={eps:g}/255?" if eps / 255 < largest else ""
        raise UserError(
            f"expected --eps below {largest:.4g}, which as {norm} spans all of [0,1], the scale of images, "
            f"got {eps:g}{hint}"
        )


def read_number(text: str) -> float:
    """Read a decimal or a fraction.

    Raises:
        ValueError: it is neither.
        ArithmeticError: the denominator is 0.
    """
    numerator, slash, denominator = text.partition("/")
    return float(numerator) / float(denominator) if slash else float(text)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        value = float(text)
        if not value.is_integer():
            raise
        return int(value)


def _shard(text: str) -> tuple[int, int]:
    match = _SHARD.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return int(match[1]) - 1, int(match[2])


def _size(text: str) -> tuple[int, int]:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return int(match[1]), int(match[2] or match[1])


def _ranges(text: str) -> list[range]:
    parts = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise ValueError(part)
        first = int(match[1])
        parts.append(range(first, (first if match[2] is None else int(match[2])) + 1))
        if not parts[-1]:
            raise ValueError(part)
    return parts
