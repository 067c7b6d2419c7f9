"""As how many devices a CPU trains: one for each core, with which a step is faster than with all in each operation."""

import os

import jax
from jax.extend.backend import clear_backends

from advx_jax.analysis.lane_check import lanes_agree, what_is_wrong
from advx_jax.analysis.workers import processor_cores
from advx_jax.messages import say_once
from advx_jax.training.recipe import Recipe

# Fewer are too little work between two meetings of the devices.
_LEAST_ROWS = 32
_ASKED_FOR = "xla_force_host_platform_device_count"


def share_among_cores(recipe: Recipe) -> None:
    """Let JAX show a CPU as several devices, unless the environment says how many it is to be.

    To be called before JAX computes anything. Nothing changes where there are accelerators, where each device has
    statistics of its own (another number of devices would train another network), and where several devices of this
    CPU compute wrong numbers.

    Args:
        recipe: what is trained.
    """
    if os.environ.get("JAX_NUM_CPU_DEVICES") or _ASKED_FOR in os.environ.get("XLA_FLAGS", ""):
        return
    n_devices = devices_for(recipe, processor_cores())
    if n_devices == 1:
        return
    jax.config.update("jax_num_cpu_devices", n_devices)
    devices = tuple(jax.local_devices())
    if devices[0].platform == "cpu" and not lanes_agree(devices):
        say_once(f"warning: {what_is_wrong(devices)}; one device trains instead, with the right numbers but slower")
        clear_backends()
        jax.config.update("jax_num_cpu_devices", 1)


def devices_for(recipe: Recipe, cores: int) -> int:
    """The number of devices as which so many cores train: they share each batch equally.

    Args:
        recipe: what is trained.
        cores: of the processor.
    """
    if recipe.batch_norm == "per_device":
        return 1
    most = min(cores, recipe.batch_size // _LEAST_ROWS)
    return next((n for n in range(most, 1, -1) if recipe.batch_size % n == 0), 1)
