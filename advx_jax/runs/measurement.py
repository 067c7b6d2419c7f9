"""One way to measure: whatever is measured of images, what is missing is computed, kept, shared and summed up here."""

import abc
import contextlib
import dataclasses
import signal
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from advx_jax.analysis.workers import lanes
from advx_jax.errors import UserError
from advx_jax.progress import Update, progress
from advx_jax.reports.results_json import head
from advx_jax.runs.shares import WHOLE, Share
from advx_jax.runs.store import Record, Records, Rules, Store

Summary = TypeVar("Summary")

_SECONDS_BETWEEN_LOOKS = 0.5
# How long other machines' files may take to be seen here.
_LONGEST_DELAY = 10.0
_MOST_NAMED = 10


class Pass(NamedTuple):
    """One computation on each of some keys.

    Attributes:
        keys: of the records that it makes, or goes on with.
        is_done: whether it was done, by the records that are there.
        compute: does it for some keys, and gives their records as they are finished, in any order.
        rows: how many make a chunk.
        timed_as: name under which its seconds are added up.
    """

    keys: Sequence[str]
    is_done: Callable[[str], bool]
    compute: Callable[[list[str]], Iterator[Mapping[str, Record]]]
    rows: int
    timed_as: str | None = None


class Measurement(abc.ABC, Generic[Summary]):
    """What is measured of images, each by itself.

    Attributes:
        command: its name, in results and beside the bar.
        of: what else stands beside the bar, where one command shows several.
        path: of the store that keeps its records; None to keep nothing.
        results: the file that sums them up, if it is to be overwritten only where they are.
        settings: everything that a record depends on, apart from its image.
        images: names of those wanted.
    """

    command: ClassVar[str]
    format: ClassVar[int] = 1
    # Whether the folder of the store is that of these results alone.
    own_folder: ClassVar[bool] = True
    # Whether an interrupted call is to sum up what it has.
    shows_part: ClassVar[bool] = False
    # Whether `seconds_left` knows; otherwise what was done tells the speed of the rest.
    estimates: ClassVar[bool] = False

    path: Path | None
    results: Path | None = None
    settings: Mapping[str, Any]
    images: Sequence[str]
    of: str = ""
    # Known when results are summed up.
    _environments: Sequence[Mapping[str, Any]] = ()

    def results_head(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The first entries of the results: `head`, and where records were computed if that was not (only) here.

        Args:
            settings: everything that the results depend on.
        """
        begin = head(self.command, self.format, settings)
        if any(environment != begin["environment"] for environment in self._environments):
            begin["computed_in"] = list(self._environments)
        return begin

    def sum_up(self, kept: Records) -> Summary:
        """Write the results of what is kept: `summarise`, which can tell where it was computed."""
        self._environments = kept.environments
        return self.summarise(kept.records, kept.seconds)

    def keys(self, image: str) -> tuple[str, ...]:
        """Of an image's records."""
        return (image,)

    @abc.abstractmethod
    def passes(self, images: Sequence[str], records: Mapping[str, Record], done: Update) -> Iterator[Pass]:
        """What is to be computed, one pass after the other; a pass is asked for when those before are done.

        Args:
            images: of the share of this process.
            records: that are there; grows.
            done: is to be told of work done, in records. What completes a record that way adds up to 1.
        """

    @abc.abstractmethod
    def summarise(self, records: Mapping[str, Record], seconds: Mapping[str, float]) -> Summary:
        """Write the results of the images wanted, of which all records are there; returns what a person is told."""

    def is_done(self, key: str, records: Mapping[str, Record]) -> bool:
        """Whether nothing is missing of a record."""
        return key in records

    def portion_done(self, record: Record) -> float:
        """Of the work on a record, the part that is done."""
        del record
        return 1.0

    def seconds_left(self) -> float | None:
        """How long the rest will take; None while nothing is known."""
        return None

    def is_valid(self, key: str, record: Record) -> bool:
        """Whether a record is what this can have written; it may be anybody's file."""
        del key, record
        return True

    def forget(self, records: Mapping[str, Record]) -> None:
        """Remove the files that belong to records which are to be replaced."""

    def older(self) -> Mapping[str, Any] | None:
        """Read what an earlier release left: a head, with `records` in it; None if there is nothing."""
        return None


@dataclasses.dataclass(frozen=True)
class Outcome(Generic[Summary]):
    """What became of a measurement.

    Attributes:
        summary: None if that is left to another process.
        status: what to say in that case.
    """

    summary: Summary | None
    status: str = ""

    @property
    def text(self) -> str:
        """What to print, where the summary is a text."""
        return self.status if self.summary is None else str(self.summary)


def measure(measurement: Measurement[Summary], overwrite: bool = False, share: Share = WHOLE) -> Outcome[Summary]:
    """Compute what is missing of this process's share, keep it as it comes, and sum up if all is there.

    Raises:
        UserError: the store holds results of other settings and must not be overwritten; or processes that run
            together do not see each other's files.
    """
    # Process 0 removes what is there before the others open it.
    in_turn = overwrite and share.together
    if in_turn and share.index > 0:
        share.wait()
    with _opened(measurement, overwrite and not (in_turn and share.index > 0), share) as store:
        if in_turn and share.index == 0:
            share.wait()
        share.begin()
        try:
            _compute_missing(measurement, store, share)
        except BaseException:
            if measurement.shows_part and share.count == 1 and store.records:
                with store.final():
                    measurement.sum_up(store)
            raise
        share.wait()
        if share.together and share.index > 0:
            return Outcome(None, f"process {share.index} is done")
        return _summed_up(measurement, store, share)


def _opened(measurement: Measurement[Any], overwrite: bool, share: Share) -> Records:
    if measurement.path is None:
        return Records()
    return Store(
        measurement.path,
        head(measurement.command, measurement.format, measurement.settings),
        overwrite,
        Rules(measurement.is_valid, measurement.forget, measurement.older, measurement.results),
        share.name,
        measurement.own_folder,
    )


def _compute_missing(measurement: Measurement[Any], store: Records, share: Share) -> None:
    records = store.records
    images = measurement.images[share.index :: share.count]
    keys = [key for image in images for key in measurement.keys(image)]

    def count_done() -> float:
        return sum((measurement.portion_done(records[key]) for key in keys if key in records), 0.0)

    shown = count_done()
    if all(measurement.is_done(key, records) for key in keys):
        return
    seconds_left = measurement.seconds_left if measurement.estimates else None
    with contextlib.ExitStack() as context:
        update: Update = _unseen
        if not (share.together and share.index > 0):
            description = f"{measurement.command} {measurement.of}".rstrip()
            bar = progress(len(keys), "image", description, shown, seconds_left=seconds_left)
            update = context.enter_context(bar)

        def done(amount: int | float, note: str = "", spared: bool = False) -> None:
            nonlocal shown
            shown += amount
            update(amount, note, spared)

        def recount() -> None:
            """Show what other processes have done."""
            done(count_done() - shown, spared=True)

        for step in measurement.passes(images, records, done):
            complete(store, step, recount)


def _unseen(amount: int | float, note: str = "", spared: bool = False) -> None:
    """The first process shows how far it is; its share is as large as the others'."""


def complete(store: Records, step: Pass, on_others: Callable[[], None] = lambda: None) -> None:
    """Do what is missing of a pass, and keep it as it comes.

    Processes that divide the work as they go share what is missing; where the rest is in the hands of others, this
    waits for them, and takes over from one that was killed. All keys are done at the end.

    Args:
        store: of the records.
        step: what to do.
        on_others: called when other processes have finished something.
    """
    at_once = step.rows * len(lanes())
    with _noticed_interrupts() as check:
        missing = [key for key in step.keys if not step.is_done(key)]
        while missing:
            mine = store.claim(missing, step.is_done, at_once)
            since = time.monotonic()
            for records in step.compute(mine) if mine else ():
                now = time.monotonic()
                store.append(records, {step.timed_as: now - since} if step.timed_as else None)
                since = now
                check()
            before, missing = missing, [key for key in missing if not step.is_done(key)]
            if unfinished := set(mine) & set(missing):
                raise RuntimeError(f"not finished: {', '.join(sorted(unfinished))}")
            if len(before) > len(missing) + len(mine):
                on_others()
            elif missing and not mine:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            check()
        store.release()


def _summed_up(measurement: Measurement[Summary], store: Records, share: Share) -> Outcome[Summary]:
    """Results if all that is wanted is there."""
    deadline = time.monotonic() + (_LONGEST_DELAY if share.together else 0)
    while True:
        with store.final():
            missing = [
                position
                for position, image in enumerate(measurement.images)
                if not all(measurement.is_done(key, store.records) for key in measurement.keys(image))
            ]
            if not missing:
                store.tidy()
                return Outcome(measurement.sum_up(store))
        if time.monotonic() >= deadline:
            break
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    place = measurement.path and measurement.path.parent
    n, total = len(missing), len(measurement.images)
    if share.together:
        raise UserError(f"expected a folder that all processes share, got {place}, which lacks {n} of {total} images")
    shards = sorted({position % share.count + 1 for position in missing})
    named = ", ".join(map(str, shards[:_MOST_NAMED])) + (", …" if len(shards) > _MOST_NAMED else "")
    return Outcome(
        None,
        f"shard {share.index + 1}/{share.count} is done: {total - n} of {total} images are in {place}, {n} are missing "
        f"(shard {named}); whoever completes them writes the results",
    )


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
