"""Measure the networks of the manifest with `evaluate`, `ara` and `explain`, as the README's table shows them.

    python -m benchmarks.measure_networks
    python -m benchmarks.measure_networks --networks=resnet20-quick-robust --n_ara_images=1000

Results go to prebuilt/measured/NAME; what is there is kept, and an interrupted measurement goes on. Needs all
CIFAR-10 test images. Then `python -m benchmarks.results_table`.
"""

import subprocess
import sys
from collections.abc import Sequence

from absl import flags

from advx_jax.commands import no_arguments, run
from advx_jax.data.sources import load_cifar10
from advx_jax.errors import UserError
from advx_jax.networks.registry import manifest
from benchmarks.measured import ROOT, SHOWN, files_of

_NETWORKS = flags.DEFINE_list("networks", None, "Which networks; all if not given.")
_N_ARA_IMAGES = flags.DEFINE_integer("n_ara_images", 1000, "Images of the accuracy-robustness areas.", lower_bound=1)

N_TEST = 10_000


def main(arguments: list[str]) -> None:
    """Run the commands that are still to be run."""
    no_arguments(arguments)
    if (found := len(load_cifar10(None, "test"))) != N_TEST:
        raise UserError(f"expected all {N_TEST} test images (python -m advx_jax.data.cifar10), got {found}")
    names = manifest() if _NETWORKS.value is None else _NETWORKS.value
    for name in names:
        files = files_of(name)
        model = f"--model={name}"
        if not files.accuracy.exists():
            _call("evaluate", [model, f"--output={files.accuracy}"])
        if not files.sample_accuracy.exists():
            _call("evaluate", [model, "--data=sample", f"--output={files.sample_accuracy}"])
        # These two go on by themselves.
        indices = ",".join(map(str, SHOWN))
        _call("explain", [model, "--data=sample", f"--indices={indices}", f"--output={files.explanations}"])
        _call("ara", [model, f"--n_images={_N_ARA_IMAGES.value}", f"--output={files.ara}"])


def _call(command: str, arguments: Sequence[str]) -> None:
    """Run a command as a person would, who sees its progress."""
    print(f"{command} {' '.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", f"advx_jax.{command}", *arguments], cwd=ROOT)
    if done.returncode:
        raise UserError(f"expected advx_jax.{command} to succeed, got status {done.returncode}")


if __name__ == "__main__":
    run(main, __doc__)
