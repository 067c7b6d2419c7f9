"""Progress of long work: a bar on a terminal, a line now and then in a log."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from tqdm import tqdm


@contextlib.contextmanager
def progress(
    total: int,
    unit: str,
    description: str,
    done: int = 0,
    stream: TextIO | None = None,
    log_interval: float = 10.0,
) -> Iterator[Callable[[float], None]]:
    """Show how far the work inside the block has come and how long it will still take.

    Args:
        total: how much work there is.
        unit: what is counted, in the singular; for instance "image".
        description: what is going on, in a word or two.
        done: how much of it was finished by an earlier run; it does not enter the speed.
        stream: where to show it; standard error by default.
        log_interval: on anything but a terminal, the least number of seconds between two lines.

    Yields:
        A function to be called with the amount of work just finished.
    """
    stream = sys.stderr if stream is None else stream
    if stream.isatty():
        with tqdm(total=total, initial=done, unit=unit, desc=description, file=stream, dynamic_ncols=True) as bar:
            yield bar.update
    else:
        log = _Log(total, unit, description, done, stream, log_interval)
        yield log.update


class _Log:
    """Lines for a file or a pipe, where a bar that redraws itself would only be noise."""

    def __init__(self, total: int, unit: str, description: str, done: int, stream: TextIO, interval: float) -> None:
        self._total, self._unit, self._description, self._stream = total, unit, description, stream
        self._initial = done
        self._done: float = done
        self._interval = interval
        self._start = self._last = time.monotonic()

    def update(self, amount: float) -> None:
        self._done += amount
        now = time.monotonic()
        # Work that was long enough for a line also gets a last one.
        finished = self._done >= self._total and self._last > self._start
        if finished or now - self._last >= self._interval:
            self._last = now
            line = tqdm.format_meter(
                self._done,
                self._total,
                now - self._start,
                initial=self._initial,
                ncols=0,
                prefix=self._description,
                unit=self._unit,
            )
            self._stream.write(line + "\n")
            self._stream.flush()
