"""How long a measurement in phases will still take, each phase only on the items that the one before leaves over."""

import math
import statistics
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

# Of items, how many go on to the next phase, as long as little is known: the first attack breaks most of what breaks.
_FIRST_GO_ON, _LATER_GO_ON = 0.8, 0.98
# How many items that belief weighs as much as.
_WEIGHT = 2
_LATEST = 64


class Phase(NamedTuple):
    """A pass over all items that are left.

    Attributes:
        kind: phases of one kind take equally long.
        segments: equal pieces that the work on a chunk of items comes in.
        cost: of a segment of an item; only ratios matter, and only until some segment of that kind was timed.
    """

    kind: str
    segments: int
    cost: float


class Estimate:
    """Learns from the segments as they are finished; thread-safe where it must be.

    Compilation, which the first segment of a kind and size waits for, does not count as speed; it is expected again
    for each kind to come.

    Args:
        phases: in their order.
        rows_of: how many items make a chunk where so many are left.
        lanes: how many chunks are computed at once.
        clock: gives seconds.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        rows_of: Callable[[int], int],
        lanes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._phases, self._rows_of, self._lanes, self._clock = phases, rows_of, lanes, clock
        n = len(phases)
        self._waiting, self._out, self._on = [0] * (n + 1), [0] * n, [0] * n
        self._lock = threading.Lock()
        self._compiled: set[tuple[str, int]] = set()
        self._samples: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_LATEST))
        self._firsts: dict[str, float] = {}
        self._current = -1
        self._rows = self._chunks = self._todo = self._block = 0
        self._is_first = False
        # Of each thread: when its last segment ended, and how many segments of its chunk it has made.
        self._last: dict[int, float] = {}
        self._made: dict[int, int] = {}

    def wait(self, waiting: Sequence[int]) -> None:
        """So many items are about to go through each of the phases; no block is being worked on."""
        with self._lock:
            self._waiting = [*waiting, 0]
            self._todo = self._block = 0

    def go_on(self, position: int, n: int, n_on: int) -> None:
        """Items of the block have gone through its phase, and some of them go on to the next."""
        with self._lock:
            self.learn(position, n, n_on)
            self._waiting[position] -= n
            self._waiting[position + 1] += n_on
            self._block -= n

    def learn(self, position: int, n: int, n_on: int) -> None:
        """Items went through a phase in an earlier call."""
        self._out[position] += n
        self._on[position] += n_on

    def begin(self, position: int, n: int, rows: int) -> None:
        """A block of the items that wait at a phase is begun, in chunks of so many."""
        with self._lock:
            kind = self._phases[position].kind
            self._is_first = (kind, rows) not in self._compiled
            self._compiled.add((kind, rows))
            self._current, self._rows, self._block, self._chunks = position, rows, n, -(-n // rows)
            self._todo = self._chunks * self._phases[position].segments
            self._last, self._made, self._start = {}, {}, self._clock()

    def segment(self) -> None:
        """The calling thread has made a segment of its chunk."""
        with self._lock:
            thread, now, phase = threading.get_ident(), self._clock(), self._phases[self._current]
            since = self._last.get(thread)
            seconds = (now - (self._start if since is None else since)) / self._rows
            if since is None and self._is_first:
                self._firsts.setdefault(phase.kind, seconds * self._rows)
            else:
                self._samples[phase.kind].append(seconds)
            self._last[thread] = now
            self._made[thread] = (self._made.get(thread, 0) + 1) % phase.segments
            self._todo -= 1

    def skip(self) -> None:
        """What is left of the calling thread's chunk is not needed."""
        with self._lock:
            self._todo -= -self._made.get(threading.get_ident(), 0) % self._phases[self._current].segments
            self._made[threading.get_ident()] = 0

    def seconds_left(self) -> float | None:
        """Of all phases; None before a segment was timed."""
        with self._lock:
            timed = {kind: statistics.median(samples) for kind, samples in self._samples.items()}
            if not timed:
                return None
            costs = {phase.kind: phase.cost for phase in self._phases}
            per_cost = statistics.median(seconds / costs[kind] for kind, seconds in timed.items())
            rate = {kind: timed.get(kind, per_cost * cost) for kind, cost in costs.items()}
            waits = [max(0.0, first - rate[kind] * self._rows) for kind, first in self._firsts.items()]
            to_compile = set(costs) - {kind for kind, _ in self._compiled}
            total = 0.0
            for position, n in self._expected():
                phase = self._phases[position]
                if position == self._current:
                    busy = max(1, min(self._lanes, self._chunks))
                    total += self._todo / busy * self._rows * rate[phase.kind]
                    n -= self._block
                if n < 0.5:
                    continue
                rows = self._rows_of(math.ceil(n))
                rounds = math.ceil(math.ceil(n) / rows / self._lanes)
                total += rounds * rows * phase.segments * rate[phase.kind]
                if phase.kind in to_compile and waits:
                    total += statistics.fmean(waits)
                    to_compile.remove(phase.kind)
            return total

    def _expected(self) -> Iterator[tuple[int, float]]:
        """How many items are still to go through each phase."""
        arriving = 0.0
        for position in range(len(self._phases)):
            n = self._waiting[position] + arriving
            yield position, n
            prior = _LATER_GO_ON if position else _FIRST_GO_ON
            arriving = n * (self._on[position] + _WEIGHT * prior) / (self._out[position] + _WEIGHT)
