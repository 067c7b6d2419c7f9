"""Records in a folder that several processes may share: appended as they come, never rewritten.

A store is a file of JSON lines or several of them, `NAME.jsonl`, `NAME-2.jsonl`, …: each is locked by the one process
that appends to it, so that there are as many as processes ever worked at once. A process with a share of its own
(`--shard`, `--distributed`) has a file that is named after it, and needs no locks. The first line is a head (format,
settings, fingerprint, environment), every other is what was finished in one go, and names the environment where that
is another than before. A line that a killed process left unfinished is dropped. Every line has a serial number, higher
than all that its writer had read: of two records with one key, the higher one holds.
"""

import contextlib
import itertools
import json
import math
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from advx_jax.errors import UserError
from advx_jax.files import locked, locks_work, remove_temporaries, try_lock
from advx_jax.messages import listed
from advx_jax.strict_json import parsed_json

Record = dict[str, Any]

_SECONDS_BETWEEN_SYNCS = 5.0
# So many at once that devices seldom wait for the last chunk of a block, and so few that a process which comes later
# soon has its share. A block is in memory as float32, so it is never all of a data set.
_ROUNDS_PER_BLOCK, _LARGEST_BLOCK = 8, 1024


def block_size(missing: int, at_once: int) -> int:
    """How many items to do next, in whole rounds of as many as are computed at once."""
    return min(-(-missing // at_once), _ROUNDS_PER_BLOCK, max(1, _LARGEST_BLOCK // at_once)) * at_once


@contextlib.contextmanager
def others_kept_out(path: Path) -> Iterator[None]:
    """Keep other processes from opening a store, dividing work or writing results, for moments only."""
    with locked(path.with_name(f".{path.stem}.lock")):
        yield


class Rules(NamedTuple):
    """What a store has to know of what it keeps.

    Attributes:
        accepts: whether a record is what it should be, and what it tells of is still there; one that is not is as if
            it had never been, so its work is done again.
        forget: removes what belongs to records that are to be replaced, which it is given, also those that are not
            accepted now; also called before the first record, for what a killed call may have left.
        older: reads what an earlier release left: a head, with `records` in it; None if there is nothing.
        results: file that sums the records up; where it is without any, somebody keeps it for itself.
    """

    accepts: Callable[[str, Record], bool] = lambda key, record: True  # noqa: ARG005
    forget: Callable[[Mapping[str, Record]], None] = lambda records: None  # noqa: ARG005
    older: Callable[[], Mapping[str, Any] | None] = lambda: None
    results: Path | None = None


class _Part:
    """A file of the store as far as it has been read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.head: Record | None = None
        self.claims: set[str] = set()
        # In which the next line's records were computed, unless it says otherwise.
        self.environment: Record | None = None
        self.offset = 0

    def begin(self, head: Record) -> None:
        """Know its first line."""
        self.head, self.environment = head, _environment(head)

    def new_lines(self) -> list[Record]:
        """What was added since the last call; half a line at the end and lines that are damaged are left out."""
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            text = stream.read()
        whole = text[: text.rfind(b"\n") + 1]
        self.offset += len(whole)
        lines = [_parsed(line) for line in whole.split(b"\n")[:-1]]
        if lines and self.head is None:
            self.begin(lines.pop(0) or {})
        return [line for line in lines if line is not None]

    def is_held(self) -> bool:
        """Whether a running process appends to it."""
        with self.path.open("r+b") as stream:
            try:
                return not try_lock(stream.fileno())
            except OSError:
                return False


class Records:
    """Records by key, in memory only; use as a context manager.

    Attributes:
        records: by key, the newest of each.
        seconds: spent on what was named.
        environments: in which records were computed, as `results_json.environment` tells them; none where that is this
            process's.
    """

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.seconds: dict[str, float] = {}
        self.environments: list[Record] = []

    def __enter__(self) -> "Records":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held."""

    def append(self, records: Mapping[str, Record], seconds: Mapping[str, float] | None = None) -> None:
        """Keep what was finished, all of it or nothing; numbers are finite."""
        self.records |= records
        for name, amount in (seconds or {}).items():
            self.seconds[name] = self.seconds.get(name, 0.0) + amount

    def claim(self, keys: Sequence[str], is_done: Callable[[str], bool], at_once: int = 1) -> list[str]:
        """Choose, of what is missing, what is done next.

        Args:
            keys: of what is wanted.
            is_done: whether nothing is missing of it, by the records.
            at_once: how many are computed at once; work is best divided in multiples of this.

        Returns:
            Some of the keys, in their order.
        """
        missing = [key for key in keys if not is_done(key)]
        return missing[: block_size(len(missing), at_once)]

    def release(self) -> None:
        """Leave to others what was claimed and is not done."""

    @contextlib.contextmanager
    def final(self) -> Iterator[None]:
        """Keep others from writing final results for as long as the block lasts; knows all that is there."""
        yield

    def tidy(self) -> None:
        """Remove what killed processes left half written."""


class Store(Records):
    """Records by key, on disk and here; use as a context manager.

    Args:
        path: `FOLDER/NAME.jsonl`; the folder is there.
        head: of the results, with `format`, `settings`, `fingerprint` and `environment`.
        overwrite: replace what was made with other settings.
        rules: see there.
        share: name of the part that this process alone works on, which it does not divide with others.
        own_folder: the folder is that of these results alone. Otherwise there may be others with a name like
            NAME-2, and what is called so is none of this store's.

    Attributes:
        records: what is there, by key, the newest of each; as of the last claim, append or refresh.
        seconds: spent on what was named, over all processes.
        environments: of all processes that computed records.

    Raises:
        UserError: the folder holds results of other settings which must not be replaced, or another process is making
            such ones right now.
    """

    def __init__(
        self,
        path: Path,
        head: Mapping[str, Any],
        overwrite: bool = False,
        rules: Rules | None = None,
        share: str | None = None,
        own_folder: bool = True,
    ) -> None:
        super().__init__()
        self._path, self._head, self._rules = path, dict(head), rules or Rules()
        self._share, self._own_folder, self._has_locks = share, own_folder, locks_work(path.parent)
        self._stem = f"{path.stem}{'-' if own_folder else '.part-'}"
        self._name = re.compile(f"({re.escape(path.stem)}|{re.escape(self._stem)}[\\w.-]+){re.escape(path.suffix)}")
        self._parts: dict[Path, _Part] = {}
        self._mine = _Part(path)
        self._serials: dict[str, int] = {}
        self._serial = 0
        # Not accepted; they may be anybody's.
        self._refused: dict[str, Record] = {}
        self._synced = time.monotonic()
        with others_kept_out(path):
            older = self._begin(overwrite)
            self._mine, self._descriptor = self._take_part()
            try:
                self.refresh()
                if self._mine.head is None:
                    self._mine.begin(self._head)
                    self._write(self._head)
                # What its last writer, now dead, was at.
                self.release()
                self._append(self._accepted(older.get("records")), _finite(older.get("seconds")), _environment(older))
            except BaseException:
                os.close(self._descriptor)
                raise

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the file up, and with it all claims."""
        os.fsync(self._descriptor)
        os.close(self._descriptor)

    def append(self, records: Mapping[str, Record], seconds: Mapping[str, float] | None = None) -> None:
        """Keep what was finished, all of it or nothing; numbers are finite."""
        self._append(records, seconds, _environment(self._head))

    def _append(
        self, records: Mapping[str, Record], seconds: Mapping[str, float] | None, environment: Record | None
    ) -> None:
        if not records and not seconds:
            return
        line = {"serial": self._serial + 1, "records": dict(records), "seconds": dict(seconds or {})}
        if environment and environment != self._mine.environment:
            line["environment"] = environment
        self._write(line)
        self._take_in(line, self._mine)
        if time.monotonic() - self._synced > _SECONDS_BETWEEN_SYNCS:
            # Against a power failure; a process that dies loses nothing either way.
            os.fsync(self._descriptor)
            self._synced = time.monotonic()

    def claim(self, keys: Sequence[str], is_done: Callable[[str], bool], at_once: int = 1) -> list[str]:
        """Choose, of what is missing, what this process does next; others leave it alone until the next claim.

        Returns:
            Some of the keys, in their order; nothing if all that is missing is claimed by others that still run.
        """
        if self._share:
            return super().claim(keys, is_done, at_once)
        with others_kept_out(self._path):
            self.refresh()
            others = [part for part in self._parts.values() if part is not self._mine and part.is_held()]
            taken = {key for part in others for key in part.claims}
            missing = [key for key in keys if not is_done(key)]
            free = [key for key in missing if key not in taken]
            chosen = free[: block_size(-(-len(missing) // (len(others) + 1)), at_once)]
            if chosen or self._mine.claims:
                self._write({"serial": self._serial, "claims": chosen})
                self._mine.claims = set(chosen)
        return chosen

    def release(self) -> None:
        """Leave to others what was claimed and is not done."""
        if self._mine.claims:
            self._write({"serial": self._serial, "claims": []})
            self._mine.claims = set()

    def refresh(self) -> None:
        """Read what other processes have finished since the last time."""
        for part in self._found_parts():
            for line in part.new_lines():
                self._take_in(line, part)
                if isinstance(claims := line.get("claims"), list):
                    part.claims = {key for key in claims if isinstance(key, str)}

    @contextlib.contextmanager
    def final(self) -> Iterator[None]:
        """Keep others from writing final results for as long as the block lasts; knows all that is there."""
        with others_kept_out(self._path):
            self.refresh()
            yield

    def tidy(self) -> None:
        """Remove what killed processes left half written, if nobody else is at work."""
        if self._has_locks and not any(part.is_held() for part in self._parts.values() if part is not self._mine):
            remove_temporaries(self._path.parent, None if self._own_folder else self._path.stem)

    def _found_parts(self) -> list[_Part]:
        for path in sorted(self._path.parent.iterdir()):
            if self._name.fullmatch(path.name) and path not in self._parts:
                self._parts[path] = _Part(path)
        return list(self._parts.values())

    def _begin(self, overwrite: bool) -> Mapping[str, Any]:
        """Read what is there, or make room for something else; returns what an earlier release left to go on from."""
        older: Mapping[str, Any] = {}
        try:
            self.refresh()
            heads = [(part.path, part.head) for part in self._parts.values() if part.head is not None]
            if not heads and (older := self._rules.older() or {}):
                heads = [(self._path.parent, dict(older))]
            if not heads and self._rules.results and self._rules.results.exists():
                raise UserError(
                    f"{self._rules.results} is there without its records ({self._path.name}): {self._remedy()}"
                )
            for path, there in heads:
                self._compare(path, there)
        except UserError:
            if not overwrite:
                raise
            if any(part.is_held() for part in self._parts.values()):
                raise UserError(
                    f"another process makes results of other settings in {self._path.parent}: choose another --output"
                ) from None
            self._replace(older.get("records"))
            return {}
        # Where locks cannot be relied upon, as shares must not, others may just have begun.
        if self._has_locks and not self._share:
            self.tidy()
            if not heads:
                self._rules.forget({})
        return older

    def _replace(self, older: object) -> None:
        self._rules.forget({**self._refused, **_by_key(older), **self.records})
        for part in self._parts.values():
            part.path.unlink()
        self.records, self._refused, self.seconds, self._parts, self._serials = {}, {}, {}, {}, {}
        self.environments = []

    def _compare(self, path: Path, there: Mapping[str, Any]) -> None:
        if there.get("format") != self._head["format"]:
            raise UserError(f"expected results of format {self._head['format']} in {path}, got {there.get('format')!r}")
        if there.get("fingerprint") == self._head["fingerprint"]:
            return
        before = there.get("settings")
        before = before if isinstance(before, dict) else {}
        differing = listed(_differences(before, self._head["settings"]))
        raise UserError(f"{path} holds results of other settings ({differing}): {self._remedy()}")

    def _remedy(self) -> str:
        # A shard takes no --overwrite, which would remove what the others have.
        return "choose another --output, or --overwrite" + (" without --shard" if self._share else "")

    def _take_part(self) -> tuple[_Part, int]:
        """A file that nobody appends to, locked; what a killed process left of a line is cut off."""
        if self._share:
            names: Iterable[str] = [self._share]
        elif self._has_locks:
            names = itertools.chain([""], map(str, itertools.count(2)))
        else:
            # A file of its own for each call, so that nobody cuts off another's line.
            names = [f"{socket.gethostname()}-{secrets.token_hex(4)}"]
        for name in names:
            path = self._path.with_stem(f"{self._stem}{name}") if name else self._path
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            if not self._has_locks or try_lock(descriptor):
                break
            os.close(descriptor)
        else:
            raise UserError(f"another process works on {self._share} in {self._path.parent}")
        text = path.read_bytes()
        os.ftruncate(descriptor, text.rfind(b"\n") + 1)
        self._found_parts()
        return self._parts[path], descriptor

    def _write(self, line: Mapping[str, Any]) -> None:
        data = (json.dumps(line, allow_nan=False) + "\n").encode()
        self._mine.offset += len(data)
        while data:
            data = data[os.write(self._descriptor, data) :]

    def _take_in(self, line: Record, part: _Part) -> None:
        serial = line.get("serial")
        if not isinstance(serial, int):
            return
        self._serial = max(self._serial, serial)
        part.environment = _environment(line) or part.environment
        records = self._accepted(line.get("records"))
        self._refused |= {key: record for key, record in _by_key(line.get("records")).items() if key not in records}
        for key, record in records.items():
            if serial >= self._serials.get(key, serial):
                self.records[key], self._serials[key] = record, serial
        if records and part.environment and part.environment not in self.environments:
            self.environments.append(part.environment)
        for name, amount in _finite(line.get("seconds")).items():
            self.seconds[name] = self.seconds.get(name, 0.0) + amount

    def _accepted(self, records: object) -> dict[str, Record]:
        return {key: record for key, record in _by_key(records).items() if self._rules.accepts(key, record)}


def _by_key(records: object) -> dict[str, Record]:
    if not isinstance(records, dict):
        return {}
    return {key: record for key, record in records.items() if isinstance(record, dict)}


def _differences(there: Mapping[str, Any], now: Mapping[str, Any], of: str = "") -> list[str]:
    """Settings that differ, in words; of those that hold others with the same names, which of these."""
    found: list[str] = []
    for name in dict.fromkeys([*now, *there]):
        before, after = there.get(name), now.get(name)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping) and set(before) == set(after):
            found += _differences(before, after, f"{of}{name}.")
        else:
            found.append(f"{of}{name}={_in_words(before)} there, {_in_words(after)} now")
    return found


def _in_words(setting: Any) -> str:
    if isinstance(setting, Mapping):
        return "+".join(map(str, setting))
    return "nothing" if setting is None else str(setting)


def _environment(head_or_line: Mapping[str, Any]) -> Record | None:
    environment = head_or_line.get("environment")
    return environment if isinstance(environment, dict) else None


def _parsed(line: bytes) -> Record | None:
    """A line's object; None if it is none, as after a disk that filled up."""
    try:
        value = parsed_json(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _finite(numbers: object) -> dict[str, float]:
    if not isinstance(numbers, dict):
        return {}
    return {name: n for name, n in numbers.items() if isinstance(n, int | float) and math.isfinite(n)}
