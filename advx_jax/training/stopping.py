"""Being asked to stop: a signal ends training at the next step instead of at once."""

import contextlib
import signal
import types
from collections.abc import Iterator


class StopRequest:
    """Whether the process was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def _ask(self, number: int, _: types.FrameType | None) -> None:
        if self.signal is signal.SIGINT and number == signal.SIGINT:
            # Asked twice at the terminal: at once, with what the last checkpoint holds.
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn SIGTERM and SIGINT (Ctrl-C) into a request for as long as the block lasts; a second Ctrl-C interrupts."""
    request = StopRequest()
    before = {number: signal.signal(number, request._ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
