"""The same training on several numbers of devices, in turns, each in a process of its own."""

import contextlib
import functools
import multiprocessing
import operator
import signal
import statistics
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import jax

from advx_jax._runtime import keep_compiled_code
from advx_jax.errors import UserError
from advx_jax.training.recipe import Recipe
from benchmarks.side_by_side import seconds
from benchmarks.training.with_jax import WARM_UP, JaxTraining, random_images, steps_per_turn, use_devices


class OnDevices(NamedTuple):
    """A recipe's step on one number of devices.

    Attributes:
        n_devices: how many.
        rounds: seconds of a step, for each round.
        speed_up: over the first number of devices, median over the rounds.
    """

    n_devices: int
    rounds: tuple[float, ...]
    speed_up: float

    @property
    def best(self) -> float:
        """Best time."""
        return min(self.rounds)


def scale(recipe: Recipe, device_counts: Sequence[int], rounds: int, n_steps: int | None = None) -> list[OnDevices]:
    """Time a recipe's step on each number of devices, the global batch staying the same.

    Args:
        recipe: of the training.
        device_counts: how many devices to use.
        rounds: how often each number has its turn.
        n_steps: in one turn; as the platform needs it if None.

    Raises:
        UserError: there are not as many devices, or they cannot share the batch equally.
    """
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_worker(recipe, count, n_steps)) for count in device_counts]
        times = [[_turn(worker) for worker in workers] for _ in range(rounds)]
    columns = list(zip(*times, strict=True))
    speed_ups = [statistics.median(map(operator.truediv, columns[0], column)) for column in columns]
    return list(map(OnDevices, device_counts, columns, speed_ups))


@contextlib.contextmanager
def _worker(recipe: Recipe, n_devices: int, n_steps: int | None) -> Iterator[Connection]:
    """A process that has compiled a recipe's step on so many devices, and sleeps between its turns."""
    # JAX settles on its devices once in a process, and does not survive a fork.
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, recipe, n_devices, n_steps), daemon=True)
    process.start()
    there.close()
    try:
        _answer(here)
        yield here
    finally:
        # It has nothing to save.
        process.kill()
        process.join()


def _turn(worker: Connection) -> float:
    # If the process has ended, the missing answer is the error.
    with contextlib.suppress(BrokenPipeError):
        worker.send(None)
    return float(_answer(worker))


def _answer(worker: Connection) -> Any:
    try:
        answer = worker.recv()
    except (EOFError, ConnectionResetError) as error:
        raise UserError("a process that trains has ended; its own message tells why") from error
    if isinstance(answer, UserError):
        raise answer
    return answer


def _serve(connection: Connection, recipe: Recipe, n_devices: int, n_steps: int | None) -> None:
    """Prepare, then train for a turn and send the seconds a step each time that something is received."""
    # Ctrl-C reaches all processes of the terminal; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        use_devices(n_devices)
        keep_compiled_code()
        training = JaxTraining(recipe, random_images(recipe))
        training.run(WARM_UP)
    except UserError as error:
        connection.send(error)
        return
    n_steps = n_steps or steps_per_turn(jax.default_backend())
    connection.send("ready")
    while True:
        connection.recv()
        connection.send(seconds(functools.partial(training.run, n_steps)) / n_steps)
