"""The one place where training meets devices: the only pmap, and what lives on every device."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, UInt32

from advx_jax.analysis.lane_check import lanes_agree, what_is_wrong
from advx_jax.errors import UserError
from advx_jax.training.step import AXIS, Batch, Metrics, Step, TrainingSet, TrainState

ParallelStep = Callable[
    [TrainState, TrainingSet, Batch, Bool[np.ndarray, "devices *wishes"]],
    tuple[TrainState, Metrics, Bool[Array, "*wishes"]],
]


def check_devices() -> None:
    """Make sure that all devices of this process may compute at once.

    Raises:
        UserError: they are of a CPU that then computes wrong numbers.
    """
    devices = tuple(jax.local_devices())
    if devices[0].platform == "cpu" and not lanes_agree(devices):
        raise UserError(
            f"expected one CPU device in a process, got {len(devices)}: {what_is_wrong(devices)}; "
            "unset JAX_NUM_CPU_DEVICES (and --xla_force_host_platform_device_count), or install a jaxlib of the README"
        )


def on_all_devices(step: Step) -> ParallelStep:
    """Run a step on all devices of all processes at once.

    Returns:
        A function of the state and the training set (as `replicated` gives them; the state is given
        away), this process's rows of the global batch (a leading axis of local devices) and, for each
        local device, what this process wishes: to stop, for instance. It gives the new state, the metrics, and
        whether any process wishes it: all get the same answer at the same step.

    Raises:
        UserError: see `check_devices`.
    """
    check_devices()

    def whole(
        state: TrainState, data: TrainingSet, batch: Batch, wishes: Bool[Array, "*wishes"]
    ) -> tuple[TrainState, Metrics, Bool[Array, "*wishes"]]:
        return *step(state, data, batch), lax.pmax(wishes.astype("int32"), AXIS) > 0

    return jax.pmap(whole, axis_name=AXIS, in_axes=(None, None, 0, 0), out_axes=None, donate_argnums=0)


def in_words(numbers: Float[np.ndarray, " n"]) -> UInt32[np.ndarray, " 2*n"]:
    """Numbers of 64 bits as pairs of 32, which JAX hands from process to process as they are; those it would round."""
    return numbers.astype(np.float64).view(np.uint32)


def from_words(words: UInt32[Array | np.ndarray, "*processes words"]) -> Float[np.ndarray, "*processes numbers"]:
    """What `in_words` was given."""
    return np.ascontiguousarray(words).view(np.float64)


def replicated(tree: Any) -> Any:
    """Copy arrays to every local device, as the parallel step wants what all devices share."""
    sharding = NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec())
    # Committed copies: what is handed to the step is given away, and must not be the caller's own.
    return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf), sharding), tree)
