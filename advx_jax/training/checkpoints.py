"""Checkpoints in a workdir: atomic, written in the background, read back to the bit."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization
from jax.experimental import multihost_utils

from advx_jax.errors import UserError
from advx_jax.training.state import TrainState

CHECKPOINTS = "checkpoints"
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


class Checkpoints:
    """The last checkpoints of a run. One process writes and reads them; the others are told.

    Args:
        workdir: of the run; its folder `checkpoints` is made if missing.
        n_checkpoints: how many of the last ones stay.
    """

    def __init__(self, workdir: Path, n_checkpoints: int) -> None:
        self._folder = workdir.resolve() / CHECKPOINTS
        self._manager: ocp.CheckpointManager | None = None
        if jax.process_index() == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            alone = ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}, barrier_sync_key_prefix="checkpoints"
            )
            options = ocp.CheckpointManagerOptions(
                max_to_keep=n_checkpoints, multiprocessing_options=alone, create=False, enable_background_delete=False
            )
            self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(self, state: TrainState, progress: Progress) -> None:
        """Begin to write a checkpoint; a second one at the same step is not written.

        Raises:
            UserError: it, or the one before, cannot be written.
        """
        if self._manager is None or self._manager.latest_step() == progress.step:
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(serialization.to_state_dict(jax.device_get(state))),
            progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
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
        """Read the last whole checkpoint, if there is one.

        Args:
            like: a state of the same shapes, for instance the initial one.

        Raises:
            UserError: it cannot be read or has other shapes.
        """
        step = self._manager.latest_step() if self._manager is not None else None
        step = int(multihost_utils.broadcast_one_to_all(np.int64(-1 if step is None else step)))
        if step < 0:
            return None
        state_dict, progress = serialization.to_state_dict(jax.device_get(like)), dataclasses.asdict(Progress())
        if self._manager is not None:
            try:
                found = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(state_dict), progress=ocp.args.JsonRestore()
                    ),
                )
            except (OSError, ValueError, KeyError, TypeError) as error:
                reason = " ".join(str(error).split())[:300]
                raise UserError(f"cannot read the checkpoint {self._folder / str(step)}: {reason}") from error
            state_dict, progress = jax.tree.map(np.asarray, found["state"]), found["progress"]
        state_dict, progress = _told_to_all(state_dict, progress)
        return Restored(serialization.from_state_dict(like, state_dict), Progress(**progress))


def check_writable(workdir: Path) -> None:
    """Make sure that files can be written to the workdir; make it if it is missing.

    Raises:
        UserError: they cannot.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".probe"
        probe.write_bytes(b"probe")
        probe.unlink()
    except OSError as error:
        raise UserError(f"expected a workdir that can be written to, got {workdir}: {error.strerror}") from error


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


def _told_to_all(state_dict: Any, progress: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    if jax.process_count() == 1:
        return state_dict, progress
    names, numbers = list(progress), np.array(list(progress.values()), np.float64)
    state_dict, numbers = multihost_utils.broadcast_one_to_all((state_dict, numbers))
    kinds = [type(value) for value in dataclasses.asdict(Progress()).values()]
    told = {name: kind(number) for name, kind, number in zip(names, kinds, np.asarray(numbers), strict=True)}
    return jax.tree.map(np.asarray, state_dict), told
