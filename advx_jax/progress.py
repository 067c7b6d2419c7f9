"""Progress of long work: a bar on a terminal, a line now and then in a log."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TextIO, runtime_checkable

from tqdm import tqdm

_COUNT_AND_TIME = "{n:g}/{total_fmt} [{elapsed}<{left}, {rate_fmt}]"


@runtime_checkable
class Update(Protocol):
    """Is told of work just finished."""

    def __call__(self, amount: int | float, note: str = "", spared: bool = False) -> None:
        """Fractions add up; the note, if there is one, is shown from now on.

        Work that was spared is done without having taken time; it says nothing about the rest.
        """


@contextlib.contextmanager
def progress(
    total: int,
    unit: str,
    description: str,
    done: int | float = 0,
    stream: TextIO | None = None,
    log_interval: float = 10.0,
    seconds_left: Callable[[], float | None] | None = None,
) -> Iterator[Update]:
    """Show how far the work inside the block has come and how long it will still take.

    Args:
        total: how much work there is; where nothing is left to do, nothing is shown.
        unit: what is counted, in the singular; for instance "image".
        description: what is going on, in a word or two.
        done: how much of it was finished by an earlier run; it does not enter the speed.
        stream: where to show it; standard error by default.
        log_interval: on anything but a terminal, the least number of seconds between two lines.
        seconds_left: estimates how long the rest will take, None while nothing is known; by default what was done
            since the first of it, which includes compilation, tells the speed of the rest.

    Yields:
        A function to be called with the amount of work just finished, and a note if there is one.
    """
    stream = sys.stderr if stream is None else stream
    pace = _Pace(total, done)
    left = pace.seconds_left if seconds_left is None else seconds_left
    if _tenths(done) >= total:
        yield lambda amount, note="", spared=False: None  # noqa: ARG005 (nobody is shown anything)
        return
    with contextlib.ExitStack() as context:
        if stream.isatty():
            show = context.enter_context(_bar(total, unit, description, done, stream, left))
        else:
            show = _Log(total, unit, description, done, stream, log_interval, left).update

        def update(amount: int | float, note: str = "", spared: bool = False) -> None:
            pace.update(amount, spared)
            show(amount, note, spared)

        yield update


class _Pace:
    """How long the rest takes if it goes on like this."""

    def __init__(self, total: int, done: int | float) -> None:
        self._left = total - done
        self._begun: set[int] = set()
        self._since: float | None = None
        self._last = 0.0
        self._amount = 0.0

    def update(self, amount: int | float, spared: bool) -> None:
        self._left -= amount
        if spared or not amount:
            return
        self._last = time.monotonic()
        if self._since is None:
            self._since = self._last
        # The first piece of each thread: it may have had to wait for compilation.
        if threading.get_ident() in self._begun:
            self._amount += amount
        self._begun.add(threading.get_ident())

    def seconds_left(self) -> float | None:
        if self._since is None or not self._amount:
            return None
        seconds = max(0.0, self._left) * (self._last - self._since) / self._amount
        return max(0.0, seconds - (time.monotonic() - self._last))


@contextlib.contextmanager
def _bar(
    total: int,
    unit: str,
    description: str,
    done: int | float,
    stream: TextIO,
    seconds_left: Callable[[], float | None],
) -> Iterator[Update]:
    # Some terminals (in containers, say) do not know their width; tqdm would show nothing there.
    knows_width = os.get_terminal_size(stream.fileno()).columns > 0
    finished: float = done

    class Bar(tqdm):
        @property
        def format_dict(self) -> dict[str, Any]:
            return super().format_dict | {"left": _interval(seconds_left())}

    with Bar(
        total=total,
        initial=_tenths(done),
        unit=unit,
        desc=description,
        file=stream,
        dynamic_ncols=knows_width,
        ncols=None if knows_width else 80,
        bar_format="{l_bar}{bar}| " + _COUNT_AND_TIME + "{postfix}",
    ) as bar:

        def update(amount: int | float, note: str = "", spared: bool = False) -> None:
            nonlocal finished
            finished += amount
            if note:
                bar.set_postfix_str(note, refresh=False)
            more = _tenths(finished) - bar.n
            if spared:
                # As if it had been there from the start, in tqdm's average and in its latest speed.
                bar.initial, bar.n, bar.last_print_n = bar.initial + more, bar.n + more, bar.last_print_n + more
                more = 0
            bar.update(more)

        yield update


class _Log:
    """Lines for a file or a pipe, where a bar that redraws itself would only be noise."""

    def __init__(
        self,
        total: int,
        unit: str,
        description: str,
        done: int | float,
        stream: TextIO,
        interval: float,
        seconds_left: Callable[[], float | None],
    ) -> None:
        self._total, self._unit, self._description, self._stream = total, unit, description, stream
        self._without_time = self._finished = done
        self._interval, self._seconds_left = interval, seconds_left
        self._start = self._last = time.monotonic()
        self._note = ""
        self._ended = False

    def update(self, amount: int | float, note: str = "", spared: bool = False) -> None:
        self._finished += amount
        self._without_time += amount if spared else 0
        self._note = note or self._note
        if self._ended:
            return
        now = time.monotonic()
        # Work that was long enough for a line also gets a last one.
        self._ended = _tenths(self._finished) >= self._total
        is_last = self._ended and self._last > self._start
        if is_last or now - self._last >= self._interval:
            self._last = now
            line = tqdm.format_meter(
                _tenths(self._finished),
                self._total,
                now - self._start,
                initial=_tenths(self._without_time),
                prefix=self._description,
                unit=self._unit,
                left=_interval(self._seconds_left()),
                bar_format="{desc}: {percentage:3.0f}% " + _COUNT_AND_TIME,
            )
            self._stream.write(f"{line}{self._note and ', '}{self._note}\n")
            self._stream.flush()


def _tenths(amount: int | float) -> int | float:
    """Fractions add up to 9.999999 at the end, and nobody wants to read 3.4600000000000004 images."""
    return round(amount, 1)


def _interval(seconds: float | None) -> str:
    return "?" if seconds is None else tqdm.format_interval(seconds)
