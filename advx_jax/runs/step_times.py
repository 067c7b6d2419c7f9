"""How long work that comes in steps of several kinds will still take, compilation included."""

import statistics
import threading
from collections import defaultdict, deque
from collections.abc import Mapping

_LATEST = 32


class StepTimes:
    """Learns from steps as they are finished; thread-safe.

    The first time that a step of a kind is made, in each lane, waits for compilation, and does not count as speed. It
    is expected again for each kind to come.

    Args:
        costs: of an item, by kind of step; only ratios matter, and only until steps of that kind were timed.
        lanes: how many chunks are computed at once.
    """

    def __init__(self, costs: Mapping[str, float], lanes: int) -> None:
        self._costs, self._lanes = dict(costs), lanes
        self._left = dict.fromkeys(costs, 0)
        self._firsts: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self._rates: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_LATEST))
        self._lock = threading.Lock()

    def wait(self, kind: str, n_items: int) -> None:
        """So many items are to go through steps of a kind; no chunk is in work."""
        with self._lock:
            self._left[kind] = n_items

    def took(self, kind: str, rows: int, n_items: int, seconds: float) -> None:
        """A step was made for a chunk of so many rows, of which some are items and the others padding."""
        with self._lock:
            self._left[kind] -= n_items
            firsts = self._firsts[kind]
            if len(firsts) < self._lanes:
                firsts.append((rows, seconds))
            else:
                self._rates[kind].append(seconds / rows)

    def seconds_left(self) -> float | None:
        """Of all items; None before anything was timed."""
        with self._lock:
            if not self._firsts:
                return None
            timed = {kind: statistics.median(rates) for kind, rates in self._rates.items()}
            per_cost = [rate / self._costs[kind] for kind, rate in timed.items() if self._costs[kind]]
            if not per_cost:
                # Compilation and speed cannot be told apart: the fastest that was seen is nearest to speed.
                per_cost = [
                    min(seconds / rows for rows, seconds in firsts) / self._costs[kind]
                    for kind, firsts in self._firsts.items()
                    if self._costs[kind]
                ]
                per_cost = [min(per_cost)] if per_cost else [0.0]
            typical = statistics.median(per_cost)
            rates = {kind: timed.get(kind, typical * cost) for kind, cost in self._costs.items()}
            compiling = [
                max(0.0, max(seconds for _, seconds in firsts) - rates[kind] * firsts[0][0])
                for kind, firsts in self._firsts.items()
            ]
            to_come = [kind for kind, left in self._left.items() if left > 0 and kind not in self._firsts]
            work = sum(max(0, left) * rates[kind] for kind, left in self._left.items()) / self._lanes
            return work + len(to_come) * statistics.fmean(compiling)
