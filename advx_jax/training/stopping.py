"""Being asked to stop: a signal ends training at the next step instead of at once."""

import contextlib
import os
import signal
import threading
import types
from collections.abc import Iterator

_ASKED = b"\nsaving; press again to stop now\n"
_ASKED_AGAIN = b"\nstopped; the last checkpoint is kept\n"


class StopRequest:
    """Whether the process was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        # A signal may interrupt the main thread while it holds the lock for the one before.
        self._lock = threading.RLock()
        # Ctrl-C comes both ways, or one way only: an event loop, which checkpoints run, may take the pipe for its own
        # signals, and while code is compiled Python's handler waits, and then is called once for several.
        self._handled = self._piped = self._presses = 0

    def _handle(self, number: int, _: types.FrameType | None) -> None:
        self._handled += number == signal.SIGINT
        self._ask(number)

    def _listen(self, pipe: int) -> None:
        while byte := os.read(pipe, 1):
            self._piped += byte[0] == signal.SIGINT
            self._ask(byte[0])
        os.close(pipe)

    def _ask(self, number: int) -> None:
        if number not in (signal.SIGINT, signal.SIGTERM):
            return
        with self._lock:
            self.signal = self.signal or signal.Signals(number)
            presses = max(self._handled, self._piped)
            if presses == self._presses:
                return
            self._presses = presses
            with contextlib.suppress(OSError):
                os.write(2, _ASKED if presses == 1 else _ASKED_AGAIN)
            if presses > 1:
                # An exception would wait for what is being compiled. Checkpoints are whole or not there.
                os._exit(130)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn SIGTERM and SIGINT (Ctrl-C) into a request for as long as the block lasts.

    Ctrl-C is answered at once, also while code is compiled; a second one ends the process with status 130.
    """
    request = StopRequest()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {number: signal.signal(number, request._handle) for number in (signal.SIGTERM, signal.SIGINT)}
    pipe_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    listener = threading.Thread(target=request._listen, args=(reader,), daemon=True)
    listener.start()
    try:
        yield request
    finally:
        signal.set_wakeup_fd(pipe_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)
        listener.join()
