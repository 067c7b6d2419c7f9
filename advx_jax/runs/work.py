"""Doing what is missing: the one loop of all commands whose work is kept as it comes."""

import contextlib
import signal
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence

from advx_jax.runs.store import Record, Store

_SECONDS_BETWEEN_LOOKS = 0.5


def complete(
    store: Store,
    keys: Sequence[str],
    is_done: Callable[[str], bool],
    measure: Callable[[list[str]], Iterator[Mapping[str, Record]]],
    at_once: int = 1,
    done_elsewhere: Callable[[list[str]], None] = lambda keys: None,  # noqa: ARG005
    timed_as: str | None = None,
) -> None:
    """Measure what is missing in a store, and keep it as it comes.

    Processes that work on one folder at once share what is missing; where the rest is in the hands of others, this
    waits for them, and takes over from one that was killed. All that was asked for is there at the end.

    Args:
        store: of the records.
        keys: of what is wanted.
        is_done: whether nothing is missing of it, by the store's records.
        measure: makes the records of some keys, and gives them as they are finished, in any order.
        at_once: how many keys are measured at once.
        done_elsewhere: is told of what other processes finished.
        timed_as: name under which the store adds up the seconds that it takes.
    """
    with _noticed_interrupts() as check:
        missing = [key for key in keys if not is_done(key)]
        while missing:
            mine = store.claim(missing, is_done, at_once)
            since = time.monotonic()
            for records in measure(mine) if mine else ():
                now = time.monotonic()
                store.append(records, {timed_as: now - since} if timed_as else None)
                since = now
                check()
            before, missing = missing, [key for key in missing if not is_done(key)]
            if unfinished := set(mine) & set(missing):
                raise RuntimeError(f"not finished: {', '.join(sorted(unfinished))}")
            if others := set(before) - set(missing) - set(mine):
                done_elsewhere(sorted(others))
            elif missing and not mine:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            check()
        store.release()


@contextlib.contextmanager
def _noticed_interrupts() -> Iterator[Callable[[], None]]:
    """Raise the KeyboardInterrupt of Ctrl-C again, at the next check, where it was lost in a callback of JAX's."""
    asked = False

    def ask(number: int, frame: types.FrameType | None) -> None:  # noqa: ARG001
        nonlocal asked
        asked = True
        raise KeyboardInterrupt

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    mine = threading.current_thread() is threading.main_thread()
    # Whoever has another answer to Ctrl-C, or ignores it, keeps that.
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield check
        return
    signal.signal(signal.SIGINT, ask)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
