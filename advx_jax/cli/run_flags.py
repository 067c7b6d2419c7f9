"""Flags of the commands that measure: what becomes of results that are there, and how processes share the work."""

from absl import flags

from advx_jax.analysis import memory
from advx_jax.cli import process_flags
from advx_jax.cli.flag_types import define_shard
from advx_jax.errors import UserError
from advx_jax.runs.shares import Share, share_of_this_process

OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace results made with other settings.")
_SHARD = define_shard(
    "shard",
    "Measure only part K of N of the images (K/N, from 1/N), as a task of a job array does. Parts may run anywhere, "
    "at any time, into one --output; whoever completes it writes the results.",
)
_MEMORY = flags.DEFINE_string(
    "memory",
    None,
    "Memory for the images in work, 4GiB or 500MB: of each accelerator, or of the CPU. Default: $ADVX_MEMORY, else a "
    "share of what is free.",
)
flags.adopt_module_key_flags(process_flags)
# Processes leave together; one that leaves alone has failed, and the others need not wait for it.
_SHUTDOWN_SECONDS = 20


def share() -> Share:
    """The part of this process, which it joins the others for; before anything else that uses JAX.

    Raises:
        UserError: the flags do not fit each other, or the others cannot be reached.
    """
    if _MEMORY.value is not None:
        memory.give(_MEMORY.value)
    if _SHARD.value is None:
        process_flags.join_processes(_SHUTDOWN_SECONDS)
        return share_of_this_process()
    if process_flags.several_asked_for():
        raise UserError("expected --shard, or several processes that know of each other, got both")
    if OVERWRITE.value:
        raise UserError(
            "expected --shard without --overwrite, which would remove what other shards have: choose another --output, "
            "or remove the old results"
        )
    return Share(*_SHARD.value)
