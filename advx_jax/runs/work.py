"""Doing what is missing: the one loop of all commands whose work is kept as it comes."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from advx_jax.runs.store import Record, Store

_SECONDS_BETWEEN_LOOKS = 0.5


def complete(
    store: Store,
    keys: Sequence[str],
    is_done: Callable[[str], bool],
    measure: Callable[[list[str]], Iterator[Mapping[str, Record]]],
    rows: int = 1,
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
        rows: how many keys are measured at once.
        done_elsewhere: is told of what other processes finished.
        timed_as: name under which the store adds up the seconds that it takes.
    """
    missing = [key for key in keys if not is_done(key)]
    while missing:
        mine = store.claim(missing, is_done, rows)
        since = time.monotonic()
        for records in measure(mine) if mine else ():
            now = time.monotonic()
            store.append(records, {timed_as: now - since} if timed_as else None)
            since = now
        before, missing = missing, [key for key in missing if not is_done(key)]
        unfinished = set(mine) & set(missing)
        if unfinished:
            raise RuntimeError(f"not finished: {', '.join(sorted(unfinished))}")
        if others := set(before) - set(missing) - set(mine):
            done_elsewhere(sorted(others))
        elif missing and not mine:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    store.release()
