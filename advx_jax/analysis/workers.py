"""Spread independent chunks of work over the devices of this machine.

Results are per example, and a chunk never has a single row, which XLA's CPU backend alone computes in another
order: so neither the number of lanes nor the order in which chunks finish changes them. Where a CPU computes
wrong numbers in several lanes at once (`lane_check`), there is one.
"""

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import numpy as np

from advx_jax.analysis.lane_check import lanes_agree, what_is_wrong
from advx_jax.attacks.base import Model
from advx_jax.errors import UserError
from advx_jax.messages import say_once
from advx_jax.networks.pytrees import as_pytree

Task = TypeVar("Task")
Result = TypeVar("Result")

# One row alone is a matrix product of another shape to XLA, and rounds in another way.
_CPU_LEAST_ROWS = 2


class Interrupted(Exception):  # noqa: N818 (an order to stop, not an error)
    """Raised inside a task that was told to stop."""


class Worker(NamedTuple):
    """One line of work: a device and, on it, its own copy of the network.

    Attributes:
        device: where its chunks are computed.
        model: the network, its variables on that device.
        stopping: set when the work is to be given up; see `check`.
        dispatching: held while a computation is compiled and started, not while it runs, so that
            two workers never compile the same thing twice.
    """

    device: jax.Device
    model: Model
    stopping: threading.Event
    dispatching: threading.Lock

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a jitted function and wait for its result.

        Raises:
            Interrupted: the work is to be given up.
        """
        if self.stopping.is_set():
            raise Interrupted
        with self.dispatching:
            result = function(*arguments)
        return jax.block_until_ready(result)

    def put(self, array: np.ndarray) -> jax.Array:
        """Copy an array to the worker's device."""
        return jax.device_put(array, self.device)


def lanes() -> list[jax.Device]:
    """One entry for each line of work: every local accelerator once, or the CPU once for each core.

    `$ADVX_LANES` gives another number for the CPU. Several lanes are used only where they compute the same
    as one; where not, a line on standard error says so once.

    Raises:
        UserError: `$ADVX_LANES` is not a positive number.
    """
    devices = jax.local_devices()
    if devices[0].platform != "cpu":
        return devices
    wanted = _wanted_lanes(len(devices))
    several = tuple(devices[index % len(devices)] for index in range(wanted))
    if wanted == 1 or lanes_agree(several):
        return list(several)
    say_once(f"warning: {what_is_wrong(several)}; one lane computes instead, with the right numbers but slower")
    return devices[:1]


def processor_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _wanted_lanes(n_devices: int) -> int:
    asked = os.environ.get("ADVX_LANES")
    if not asked:
        return max(processor_cores(), n_devices)
    if not asked.isdecimal() or int(asked) < 1:
        raise UserError(f"expected ADVX_LANES to be a whole number from 1, got {asked!r}")
    return int(asked)


def least_rows() -> int:
    """The fewest images of a chunk with which an image's result does not depend on how many there are."""
    return _CPU_LEAST_ROWS if jax.local_devices()[0].platform == "cpu" else 1


def pad(array: np.ndarray, rows: int) -> np.ndarray:
    """Repeat the first row at the end until there are `rows`."""
    missing = rows - len(array)
    return np.concatenate([array, np.repeat(array[:1], missing, axis=0)]) if missing else array


def spread(
    model: Model, tasks: Sequence[Task], work: Callable[[Worker, Task], Result]
) -> Iterator[tuple[Task, Result]]:
    """Do tasks on all lanes at once and give each result as soon as it is there.

    Args:
        model: the network, copied to every device used.
        tasks: what is to be done.
        work: does one task, on the worker it is given.

    Yields:
        A task and its result, in the order in which they finish. If the caller stops listening
        (or is interrupted), running tasks end at their next `Worker.call`.
    """
    model = as_pytree(model)
    devices = lanes()[: max(1, len(tasks))]
    copies = {device: _placed(model, device) for device in dict.fromkeys(devices)}
    stopping, dispatching = threading.Event(), threading.Lock()
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    for device in devices:
        idle.put(Worker(device, copies[device], stopping, dispatching))
    finished: queue.SimpleQueue[tuple[Task, _Outcome[Result]]] = queue.SimpleQueue()

    def do(task: Task) -> None:
        worker = idle.get()
        try:
            finished.put((task, _Outcome(work(worker, task), None)))
        except BaseException as error:
            finished.put((task, _Outcome(None, error)))
        finally:
            idle.put(worker)

    with ThreadPoolExecutor(len(devices)) as pool:
        try:
            for task in tasks:
                pool.submit(do, task)
            for _ in tasks:
                task, outcome = finished.get()
                if outcome.error is not None:
                    raise outcome.error
                yield task, outcome.result  # type: ignore[misc]  # a result is there where no error is
        finally:
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _placed(model: Model, device: jax.Device) -> Model:
    """A copy of the network on a device."""
    leaves = jax.tree.leaves(model)
    if device.platform == "cpu" and leaves and all(isinstance(leaf, np.ndarray) for leaf in leaves):
        # All in one call: to put hundreds of small arrays one by one takes longer than to classify an image.
        with jax.default_device(device):
            return _copied(model)
    return jax.device_put(model, device)


@jax.jit
def _copied(model: Model) -> Model:
    return model


class _Outcome(NamedTuple, Generic[Result]):
    result: Result | None
    error: BaseException | None
