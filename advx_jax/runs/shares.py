"""Which of the images a process measures, where several divide them beforehand."""

import atexit
import itertools
import os
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from advx_jax.errors import UserError

# Of the slowest process behind the fastest.
_LONGEST_WAIT_MS = 30 * 24 * 3600 * 1000
# Processes that fail for one reason do so at about the same time.
_FAILING_MS = 10_000


class Share:
    """A process's part of the images: every n-th of those wanted; use as a context manager.

    Attributes:
        index: which part, from 0.
        count: of how many; with 1, processes on one folder divide the images among themselves as they go.
        together: whether the processes run at the same time and wait for each other.
    """

    def __init__(self, index: int = 0, count: int = 1, barrier: Callable[..., None] | None = None) -> None:
        self.index, self.count, self.together = index, count, barrier is not None
        self._barrier, self._names = barrier, itertools.count()
        self._all_are_here = False

    @property
    def name(self) -> str | None:
        """In file names; None for the only part."""
        return None if self.count == 1 else f"shard-{self.index + 1}-of-{self.count}"

    def begin(self) -> None:
        """Work begins: processes may be apart from now on."""
        self._all_are_here = False

    def wait(self) -> None:
        """Wait until all processes are here.

        Raises:
            UserError: another process ended before.
        """
        barrier = self._barrier
        if barrier is None:
            return
        failures: list[Exception] = []

        def wait() -> None:
            try:
                barrier(key=f"advx_jax {next(self._names)}", timeout_ms=_LONGEST_WAIT_MS)
            except Exception as error:
                failures.append(error)

        # In a thread, because Ctrl-C is not answered inside JAX.
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(0.1)
        if failures:
            raise UserError(
                "another process ended too early; the same commands go on from what is there: "
                f"{str(failures[0]).splitlines()[0]}"
            ) from failures[0]
        self._all_are_here = True

    def __enter__(self) -> "Share":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave together: JAX takes a process that leaves alone for one that died."""
        if kind is None or self._all_are_here:
            self.wait()
        elif self._barrier is not None:
            try:
                self._barrier(key="advx_jax failed", timeout_ms=_FAILING_MS)
            except Exception:
                # JAX would wait in vain for the others at the end, and then abort this process.
                atexit.register(_leave_alone, 130 if issubclass(kind, KeyboardInterrupt) else 1)


def _leave_alone(status: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


WHOLE = Share()


def share_of_this_process() -> Share:
    """The part of a process that has joined others by `jax.distributed`."""
    import jax

    if jax.process_count() == 1:
        return Share()
    # Takes a second, and is needed only here.
    from orbax.checkpoint import multihost

    barrier: Any = multihost.get_barrier_sync_fn()
    return Share(jax.process_index(), jax.process_count(), barrier)
