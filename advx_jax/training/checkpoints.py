"""Checkpoints in a workdir: atomic, written in the background, read back to the bit or not at all.

Each has a digest of what it holds. One that is damaged is passed over for the one before it.
"""

import contextlib
import dataclasses
import functools
import logging
import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import absl.logging
import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization, traverse_util
from jax.experimental import multihost_utils

from advx_jax.errors import UserError
from advx_jax.messages import listed, one_line, shown
from advx_jax.networks.digests import digest
from advx_jax.networks.files import check_numbers
from advx_jax.training.parallel import from_words, in_words
from advx_jax.training.state import TrainState

CHECKPOINTS = "checkpoints"
DAMAGED = "damaged-checkpoint-"
"""What a damaged checkpoint in a workdir is called from the next one on, with its step behind."""

# Beside the fields of `Progress`; checkpoints of earlier versions have none.
_DIGEST = "sha256"
# What process 0 tells the others in place of a step.
_NOTHING_THERE, _NOTHING_GOOD = -1, -2
# Room beside the checkpoints for metrics, pictures and the exported network.
_SPARE_BYTES = 16 * 2**20


@dataclasses.dataclass
class Progress:
    """How far a run has come; kept on the host beside the state.

    Attributes:
        step: number of steps made.
        loss_sum: sum of the class losses of the epoch's examples so far.
        n_correct: how many of them were classified right.
        n_examples: how many there were.
        best_accuracy: on the held-out images, of any epoch so far; -1 before there was one.
        seconds: spent training, over all calls.
    """

    step: int = 0
    loss_sum: float = 0.0
    n_correct: int = 0
    n_examples: int = 0
    best_accuracy: float = -1.0
    seconds: float = 0.0


class Restored(NamedTuple):
    """What a checkpoint holds."""

    state: TrainState
    progress: Progress


class _DamagedError(Exception):
    """A checkpoint does not hold what was written; the message says in a few words why."""


class Checkpoints:
    """The last checkpoints of a run. One process writes and reads them; the others are told.

    Args:
        workdir: of the run; its folder `checkpoints` is made if missing.
        n_checkpoints: how many of the last ones stay.
    """

    def __init__(self, workdir: Path, n_checkpoints: int) -> None:
        self._folder = workdir.resolve() / CHECKPOINTS
        self._manager: ocp.CheckpointManager | None = None
        self._damaged: list[int] = []
        if jax.process_index() == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            alone = ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}, barrier_sync_key_prefix="checkpoints"
            )
            options = ocp.CheckpointManagerOptions(
                max_to_keep=n_checkpoints, multiprocessing_options=alone, create=False, enable_background_delete=False
            )
            with _quiet():
                self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(self, state: TrainState, progress: Progress) -> None:
        """Begin to write a checkpoint; a second one at the same step is not written.

        Raises:
            UserError: it, or the one before, cannot be written.
        """
        if self._manager is None:
            return
        self._set_aside(self._manager)
        if self._manager.latest_step() == progress.step:
            return
        state_dict, fields = serialization.to_state_dict(jax.device_get(state)), dataclasses.asdict(progress)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state_dict),
            progress=ocp.args.JsonSave({**fields, _DIGEST: digest(_flat(state_dict), fields)}),
        )
        try:
            saved = self._manager.save(progress.step, args=items)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot write a checkpoint into {self._folder}: {error}") from error
        if not saved:
            raise UserError(f"expected no checkpoint newer than step {progress.step} in {self._folder}")

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Wait until everything is written; an error that is already on its way goes first."""
        if self._manager is None:
            return
        try:
            self._finish(self._manager)
        except UserError:
            if error is None:
                raise
        finally:
            self._manager.close()

    def _finish(self, manager: ocp.CheckpointManager) -> None:
        try:
            manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise UserError(f"cannot write a checkpoint into {self._folder}: {error}") from error

    def restore(self, like: TrainState) -> Restored | None:
        """Read the last good checkpoint, if there is one; damaged ones are passed over, and it is said.

        Args:
            like: a state of the same shapes, for instance the initial one.

        Raises:
            UserError: there are checkpoints, but none that is whole and has these shapes.
        """
        state_dict, progress = serialization.to_state_dict(jax.device_get(like)), dataclasses.asdict(Progress())
        step, refusal = _NOTHING_THERE, f"process 0 found no good checkpoint in {self._folder}"
        if self._manager is not None:
            problems: list[str] = []
            for candidate in sorted(map(int, self._manager.all_steps()), reverse=True):
                try:
                    state_dict, progress = self._read(self._manager, candidate, state_dict)
                except _DamagedError as error:
                    problems.append(f"{self._folder / str(candidate)}: {error}")
                    self._damaged.append(candidate)
                else:
                    step = candidate
                    break
            if problems and step < 0:
                step = _NOTHING_GOOD
                refusal = (
                    f"cannot read any checkpoint ({listed(problems)}); put a good copy there, or move "
                    f"{self._folder} away to train from the start"
                )
            elif problems:
                _say(
                    f"damaged: {listed(problems)}; going on from the one before, of step {step}. Nothing need be "
                    "done: the steps since are made again (if it happens often, have the disk checked)"
                )
        step = int(multihost_utils.broadcast_one_to_all(np.int64(step)))
        if step == _NOTHING_GOOD:
            raise UserError(refusal)
        if step == _NOTHING_THERE:
            return None
        state_dict, progress = _told_to_all(state_dict, progress)
        return Restored(serialization.from_state_dict(like, state_dict), Progress(**progress))

    def _read(self, manager: ocp.CheckpointManager, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """Read one checkpoint, and make sure that it is what was written.

        Raises:
            _DamagedError: it is not.
        """
        items = ocp.args.Composite(state=ocp.args.StandardRestore(like), progress=ocp.args.JsonRestore())
        try:
            with _quiet():
                found = manager.restore(step, args=items)
            state_dict, fields = jax.tree.map(np.asarray, found["state"]), dict(found["progress"])
        except Exception as error:  # On damaged files Orbax and TensorStore raise whatever comes.
            reason = " ".join(str(error).split())[:200]
            raise _DamagedError(reason or type(error).__name__) from error
        written = fields.pop(_DIGEST, None)
        kinds = {field.name: field.type for field in dataclasses.fields(Progress)}
        for name, value in fields.items():
            # An unknown name may be that of the digest, damaged.
            if type(value) is not kinds.get(name) or not math.isfinite(value):
                raise _DamagedError(f"its progress holds {shown(name)}: {shown(value)}")
        if fields.get("step") != step:
            raise _DamagedError(f"it is of step {shown(fields.get('step'))}")
        flat, expected = _flat(state_dict), _flat(like)
        problems = [name for name in expected if name not in flat or _kind(flat[name]) != _kind(expected[name])]
        problems += [name for name in flat if name not in expected]
        if problems:
            raise _DamagedError(f"missing, surplus, or of another shape or type: {listed(problems)}")
        if written is None:
            _say(
                f"the checkpoint {self._folder / str(step)} was written by an earlier version, without a digest: "
                "that it is undamaged cannot be checked"
            )
        elif written != digest(flat, fields):
            raise _DamagedError("its numbers are not those that were written")
        try:
            check_numbers(flat, "its content")
        except UserError as error:
            raise _DamagedError(str(error)) from error
        return state_dict, fields

    def _set_aside(self, manager: ocp.CheckpointManager) -> None:
        """Make room for a new checkpoint where a damaged one has the same step or a later one."""
        for step in self._damaged:
            target = self._folder.parent / f"{DAMAGED}{step}"
            try:
                if target.exists():
                    shutil.rmtree(target)
                (self._folder / str(step)).rename(target)
            except OSError as error:
                raise UserError(f"cannot move the damaged checkpoint {self._folder / str(step)}: {error}") from error
        if self._damaged:
            self._damaged.clear()
            with _quiet():
                manager.reload()


def has_checkpoints(workdir: Path) -> bool:
    """Whether a workdir holds a checkpoint, damaged or not; one that is being written does not count."""
    folder = workdir / CHECKPOINTS
    return folder.is_dir() and any(path.name.isdecimal() for path in folder.iterdir())


def check_room(workdir: Path, state: TrainState, n_checkpoints: int) -> None:
    """Make sure that there is room for the checkpoints, before any work is done.

    Raises:
        UserError: the disk is too full.
    """
    free = shutil.disk_usage(workdir).free
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    # One more than stay, because a new one is written before the oldest is removed.
    needed = size * (n_checkpoints + 1) + _SPARE_BYTES
    if free < needed:
        raise UserError(f"expected {needed / 2**20:.0f} MiB free in {workdir}, got {free / 2**20:.0f} MiB")


def _flat(state_dict: Any) -> dict[str, np.ndarray]:
    flat: dict[str, Any] = traverse_util.flatten_dict(state_dict, sep="/")
    return {name: np.asarray(value) for name, value in flat.items()}


def _kind(value: np.ndarray) -> tuple[object, ...]:
    return value.dtype, value.shape


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Orbax from writing pieces of a damaged file, and tracebacks about it, to the terminal."""
    _ignore_closed_loops()
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.FATAL)
    try:
        yield
    finally:
        absl.logging.set_verbosity(verbosity)


@functools.cache
def _ignore_closed_loops() -> None:
    """TensorStore's threads report to a loop that ended with their first error, also a while later.

    The loop itself tells of the other errors, with all of TensorStore's settings, when it is forgotten.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            before(unraisable)

    sys.unraisablehook = hook
    logging.getLogger("asyncio").addFilter(
        lambda record: not record.getMessage().startswith("Task exception was never retrieved")
    )


def _say(text: str) -> None:
    sys.stderr.write(f"{one_line(text)}\n")
    sys.stderr.flush()


def _told_to_all(state_dict: Any, progress: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    if jax.process_count() == 1:
        return state_dict, progress
    names, words = list(progress), in_words(np.array(list(progress.values()), np.float64))
    state_dict, words = multihost_utils.broadcast_one_to_all((state_dict, words))
    kinds = [type(value) for value in dataclasses.asdict(Progress()).values()]
    told = {name: kind(number) for name, kind, number in zip(names, kinds, from_words(words), strict=True)}
    return jax.tree.map(np.asarray, state_dict), told
