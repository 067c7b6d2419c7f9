"""Progress of long work: a bar in a notebook or on a terminal, a line now and then in a log.

Commands always show it (`progress`); calls from Python (`call_progress`) only in a notebook, or where that is asked
for.
"""

import contextlib
import contextvars
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TextIO, runtime_checkable

from tqdm import tqdm

# Calls from Python that are over sooner show nothing.
_SHORT_SECONDS = 1.0
# Whether what is called from here shows nothing.
_is_quiet = contextvars.ContextVar("_is_quiet", default=False)

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
    delay: float = 0.0,
) -> Iterator[Update]:
    """Show how far the work inside the block has come and how long it will still take.

    Args:
        total: how much work there is; where nothing is left to do, nothing is shown.
        unit: what is counted, in the singular; for instance "image".
        description: what is going on, in a word or two.
        done: how much of it was finished by an earlier run; it does not enter the speed.
        stream: where to show it; by default below the cell of a notebook, or on standard error.
        log_interval: on anything but a terminal, the least number of seconds between two lines.
        seconds_left: estimates how long the rest will take, None while nothing is known; by default what was done
            since the first of it, which includes compilation, tells the speed of the rest.
        delay: seconds before a bar appears.

    Yields:
        A function to be called with the amount of work just finished, and a note if there is one.
    """
    pace = _Pace(total, done)
    left = pace.seconds_left if seconds_left is None else seconds_left
    if _is_quiet.get() or _tenths(done) >= total:
        yield lambda amount, note="", spared=False: None  # noqa: ARG005 (nobody is shown anything)
        return
    with contextlib.ExitStack() as context:
        kind, options = _bar_kind(stream)
        if kind is not None:
            bar = _bar(kind, total, unit, description, done, left, delay=delay, **options)
            show = context.enter_context(bar)
        else:
            show = _Log(total, unit, description, done, stream or sys.stderr, log_interval, left).update

        def update(amount: int | float, note: str = "", spared: bool = False) -> None:
            pace.update(amount, spared)
            show(amount, note, spared)

        yield update


@contextlib.contextmanager
def call_progress(
    total: int,
    description: str,
    shown: bool | None,
    on_progress: Callable[[Any], None] = lambda _: None,
) -> Iterator[Update]:
    """Show how far a call from Python has come, in images: in a notebook, or where that is asked for.

    Args:
        total: how many images.
        description: what is going on, in a word or two.
        shown: whether to show it; None for in a notebook only.
        on_progress: is told of work finished, too, whether it is shown or not.

    Yields:
        A function to be called with how many images' worth of work was just finished.
    """
    with quiet_unless(shown) as quiet, contextlib.ExitStack() as context:
        show: Update | None = None
        if not quiet:
            show = context.enter_context(progress(total, "image", description, delay=_SHORT_SECONDS))
            # What is called from here has its share in this bar.
            context.enter_context(quiet_unless(False))

        def update(amount: int | float, note: str = "", spared: bool = False) -> None:
            on_progress(amount)
            if show is not None:
                show(amount, note, spared)

        yield update


@contextlib.contextmanager
def quiet_unless(shown: bool | None) -> Iterator[bool]:
    """Decide for all that is called inside the block whether it shows progress.

    Args:
        shown: as for `call_progress`.

    Yields:
        Whether nothing is shown.
    """
    quiet = _is_quiet.get() or not (in_notebook() if shown is None else shown)
    token = _is_quiet.set(quiet)
    try:
        yield quiet
    finally:
        _is_quiet.reset(token)


def announce(text: str) -> None:
    """Say something before long work, on standard error; not where its progress is not shown."""
    if not _is_quiet.get():
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def in_notebook() -> bool:
    """Whether this is the process of a notebook: of Jupyter, or of what runs notebooks as it does."""
    ipython = sys.modules.get("IPython")
    # An interactive shell on a terminal has no kernel.
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


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


def _bar_kind(stream: Any) -> tuple[Any, dict[str, Any]]:
    """What draws a bar on a stream, or below the cell of a notebook if that is None, and its options.

    Nothing does where a bar that redraws itself would only be noise.
    """
    if stream is None and in_notebook():
        if importlib.util.find_spec("ipywidgets") is None:
            return tqdm, {"file": sys.stderr, "ncols": 80}
        # Imported here because it looks for notebooks, which most processes are not.
        from tqdm.notebook import tqdm as widget

        return widget, {}
    stream = stream or sys.stderr
    if not stream.isatty():
        return None, {}
    # Some terminals (in containers, say) do not know their width; tqdm would show nothing there.
    knows_width = os.get_terminal_size(stream.fileno()).columns > 0
    return tqdm, {"file": stream, "dynamic_ncols": knows_width, "ncols": None if knows_width else 80}


@contextlib.contextmanager
def _bar(
    kind: Any,
    total: int,
    unit: str,
    description: str,
    done: int | float,
    seconds_left: Callable[[], float | None],
    **options: Any,
) -> Iterator[Update]:
    finished: float = done

    class Bar(kind):
        @property
        def format_dict(self) -> dict[str, Any]:
            return super().format_dict | {"left": _interval(0.0 if _tenths(finished) >= total else seconds_left())}

    with Bar(
        total=total,
        initial=_tenths(done),
        unit=unit,
        desc=description,
        bar_format="{l_bar}{bar}| " + _COUNT_AND_TIME + "{postfix}",
        **options,
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
                left=_interval(0.0 if self._ended else self._seconds_left()),
                bar_format="{desc}: {percentage:3.0f}% " + _COUNT_AND_TIME,
            )
            self._stream.write(f"{line}{self._note and ', '}{self._note}\n")
            self._stream.flush()


def _tenths(amount: int | float) -> int | float:
    """Fractions add up to 9.999999 at the end, and nobody wants to read 3.4600000000000004 images."""
    return round(amount, 1)


def _interval(seconds: float | None) -> str:
    return "?" if seconds is None else tqdm.format_interval(seconds)
