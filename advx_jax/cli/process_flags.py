"""Flags of commands that several processes may work on together, on one machine or many."""

import signal

import jax
from absl import flags

from advx_jax.errors import UserError

_DISTRIBUTED = flags.DEFINE_boolean(
    "distributed", False, "Join the other processes that the cluster's environment names (Slurm, TPU pods, Open MPI)."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where nothing else names it.")
_N_PROCESSES = flags.DEFINE_integer("n_processes", None, "With --coordinator: how many processes there are.")
_PROCESS = flags.DEFINE_integer("process", None, "With --coordinator: which one this is, from 0.")


def several_asked_for() -> bool:
    """Whether the flags ask for other processes.

    Raises:
        UserError: they do not fit each other.
    """
    given = (_COORDINATOR.value, _N_PROCESSES.value, _PROCESS.value)
    if _DISTRIBUTED.value and any(value is not None for value in given):
        raise UserError("expected --distributed or --coordinator, --n_processes and --process, got both")
    if any(value is not None for value in given) and any(value is None for value in given):
        raise UserError("expected all three of --coordinator, --n_processes and --process, got some of them")
    if _PROCESS.value is not None and not 0 <= _PROCESS.value < _N_PROCESSES.value:
        raise UserError(f"expected --process from 0 to {_N_PROCESSES.value - 1}, got {_PROCESS.value}")
    return _DISTRIBUTED.value or _COORDINATOR.value is not None


def join_processes(shutdown_timeout: int = 300) -> None:
    """Join the other processes, if the flags ask for any.

    Args:
        shutdown_timeout: seconds that a process which ends waits for the others.

    Raises:
        UserError: the flags do not fit each other, or the others cannot be reached.
    """
    if not several_asked_for():
        return
    try:
        jax.distributed.initialize(
            _COORDINATOR.value, _N_PROCESSES.value, _PROCESS.value, shutdown_timeout_seconds=shutdown_timeout
        )
    except (ValueError, RuntimeError) as error:
        if _DISTRIBUTED.value and "coordinator_address" in str(error):
            raise UserError(
                "expected a cluster's environment that names the processes (Slurm, TPU pods, Open MPI), got none: "
                "give --coordinator, --n_processes and --process"
            ) from error
        raise UserError(f"cannot join the other processes: {error}") from error
    # JAX takes the signal for a warning, which only training heeds (and then answers itself).
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
