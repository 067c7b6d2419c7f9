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
        last: metrics of the last step read.
    """

    def __init__(self, progress: Progress, listener: StepListener) -> None:
        self.stopping = False
        self.last: HostMetrics | None = None
        self._progress, self._listener = progress, listener
        self._unread: tuple[int, Metrics, Bool[Array, ""]] | None = None
        self._clock = time.monotonic()

    def enter(self, step: int, metrics: Metrics, stopping: Bool[Array, ""]) -> None:
        """Take a step's results, which may not be computed yet, and read those of the step before."""
        self.read_all()
        self._unread = (step, metrics, stopping)

    def read_all(self) -> None:
        """Read what was entered last; waits until it is computed.

        Raises:
            UserError: a quantity is infinite or NaN; it and the step are named.
        """
        if self._unread is None:
            return
        step, metrics, stopping = self._unread
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
        self.stopping = self.stopping or bool(stopping)
        self._listener.step(step, numbers)

    def close_epoch(self) -> None:
        """Begin new sums; what passed since the last step (an evaluation, say) is not training time."""
        self._progress.loss_sum, self._progress.n_correct, self._progress.n_examples = 0.0, 0, 0
        self._clock = time.monotonic()
