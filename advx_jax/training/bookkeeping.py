"""The host's books on a run: what the steps' metrics add up to, and whether they are still numbers."""

import math
import time
from typing import NamedTuple, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Bool

from advx_jax.errors import UserError
from advx_jax.training.checkpoints import Progress
from advx_jax.training.step import Metrics

_MUST_BE_FINITE = ("class_loss", "penalty", "psi", "gradient_norm")


class HostMetrics(NamedTuple):
    """The fields of `Metrics` as numbers on the host."""

    n_examples: int
    class_loss: float
    n_correct: int
    penalty: float
    psi: float
    integrator: float
    gradient_norm: float


@runtime_checkable
class StepListener(Protocol):
    """Somebody who is told of every step."""

    def step(self, step: int, metrics: HostMetrics) -> None:
        """A step, counted from 1, was made."""


class Books:
    """Reads the metrics of each step while the next one is computed, and keeps the sums of the epoch.

    Args:
        progress: the sums so far; changed in place.
        listener: is told of every step.

    Attributes:
        stopping: whether all processes have agreed to stop.
        saving: whether they have agreed on a checkpoint, until the next one is saved.
        last: metrics of the last step read.
    """

    def __init__(self, progress: Progress, listener: StepListener) -> None:
        self.stopping = False
        self.last: HostMetrics | None = None
        self._progress, self._listener = progress, listener
        self.saving = False
        self._unread: tuple[int, Metrics, Bool[Array, " wishes"]] | None = None
        self._clock = time.monotonic()

    def enter(self, step: int, metrics: Metrics, agreed: Bool[Array, " wishes"]) -> None:
        """Take a step's results, which may not be computed yet, and read those of the step before.

        Args:
            step: counted from 1.
            metrics: of the step.
            agreed: whether any process wants to stop, and whether any wants a checkpoint.
        """
        self.read_all()
        self._unread = (step, metrics, agreed)

    def read_all(self) -> None:
        """Read what was entered last; waits until it is computed.

        All processes call this at the same step: who reads more than the others would stop without them, which then
        wait for it for ever.

        Raises:
            UserError: a quantity is infinite or NaN; it and the step are named.
        """
        if self._unread is None:
            return
        step, metrics, agreed = self._unread
        self._unread = None
        self.last = numbers = HostMetrics(*(value.item() for value in jax.device_get(metrics)))
        for name in _MUST_BE_FINITE:
            value = getattr(numbers, name)
            if not math.isfinite(value):
                raise UserError(
                    f"training stopped at step {step}: {name.replace('_', ' ')} is {value}; the last checkpoint stays "
                    "(a lower learning rate often helps)"
                )
        progress, now = self._progress, time.monotonic()
        progress.loss_sum += numbers.class_loss * numbers.n_examples
        progress.n_correct += numbers.n_correct
        progress.n_examples += numbers.n_examples
        progress.seconds += now - self._clock
        self._clock = now
        stopping, saving = jax.device_get(agreed).tolist()
        self.stopping, self.saving = self.stopping or stopping, self.saving or saving
        self._listener.step(step, numbers)

    def close_epoch(self) -> None:
        """Begin new sums; what passed since the last step (an evaluation, say) is not training time."""
        self._progress.loss_sum, self._progress.n_correct, self._progress.n_examples = 0.0, 0, 0
        self._clock = time.monotonic()


class CheckpointClock:
    """Says when a checkpoint is due between the ends of epochs.

    The processes of a run have a clock each, which do not strike at the same step. Where there are several, one only
    asks, and a checkpoint is due when the books say that all have heard of it.

    Args:
        minutes: between two checkpoints.
        n_processes: of the run.
    """

    def __init__(self, minutes: float, n_processes: int) -> None:
        self._seconds, self._alone = 60 * minutes, n_processes == 1
        self._since = time.monotonic()

    def strikes(self) -> bool:
        """Whether the time is up on this process."""
        return time.monotonic() - self._since > self._seconds

    def is_due(self, books: Books) -> bool:
        """Whether to save now, all processes at once."""
        return self.strikes() if self._alone else books.saving

    def restart(self, books: Books) -> None:
        """Count from now: a checkpoint was saved."""
        self._since, books.saving = time.monotonic(), False
