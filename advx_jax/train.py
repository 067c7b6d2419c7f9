"""Train a network by a recipe, on all devices; a second call goes on from what the workdir holds.

python -m advx_jax.train --config=configs/smoke.py --workdir=smoke
python -m advx_jax.train --config=configs/robust.py --workdir=runs/robust
python -m advx_jax.train --config=configs/robust.py --config.batch_size=128 --config.epochs=20
python -m advx_jax.train --workdir=runs/robust
python -m advx_jax.train --workdir=runs/robust --export

Recipes: standard, adv_train, robust, all (the published ones), smoke. On several machines, start the same command
on each, with --distributed (Slurm, TPU pods, Open MPI) or --coordinator, --n_processes and --process.
SIGTERM or Ctrl-C saves a checkpoint and ends, a second Ctrl-C ends at once; the same command goes on from there, and
needs no more than the workdir.
"""

from absl import flags

from advx_jax.cli.commands import command, no_arguments
from advx_jax._runtime import keep_compiled_code, keep_freed_memory
from advx_jax.cli import process_flags, training_flags

_EXPORT = flags.DEFINE_boolean(
    "export", False, "Write the network of the last checkpoint to the workdir's network.safetensors; do not train."
)
flags.adopt_module_key_flags(training_flags)


@command(training_flags.parse, leave_at_once=True)
def main(arguments: list[str]) -> None:
    """Parse the flags, train, print."""
    no_arguments(arguments)
    config, recipe = training_flags.config()
    keep_freed_memory()
    keep_compiled_code()
    process_flags.join_processes()
    # Imported after the flags are checked: it takes seconds.
    from advx_jax.runs.train import export_training, report_training
    from advx_jax.training.cpu_devices import share_among_cores

    if not process_flags.several_asked_for():
        share_among_cores(recipe)
    workdir = training_flags.workdir(recipe.name)
    action = export_training if _EXPORT.value else report_training
    print(action(config, training_flags.load_data(recipe), workdir))


if __name__ == "__main__":
    main()
