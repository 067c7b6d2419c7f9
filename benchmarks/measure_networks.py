"""Measure the networks of the manifest with the commands, as the README's tables show them.

    python -m benchmarks.measure_networks
    python -m benchmarks.measure_networks --networks=resnet20-quick-robust --only=ara,ara-best --n_ara_images=1000

Results go to prebuilt/measured/NAME; what is there is kept, and an interrupted measurement goes on. Needs all
CIFAR-10 test images. What `python -m benchmarks.adv_lib_distances` wrote before takes part in attackbench. Then
`python -m benchmarks.results_table` and `python -m benchmarks.minimum_norm_table`.
"""

import functools
import subprocess
import sys
from collections.abc import Callable, Sequence

from absl import flags

from advx_jax.cli.commands import command, no_arguments
from advx_jax.data.sources import load_images
from advx_jax.errors import UserError
from advx_jax.networks.registry import manifest
from benchmarks.measured import BALLS, BENCHED, N_TEST, ROOT, SHOWN, Files, files_of


def _call(command: str, arguments: Sequence[str]) -> None:
    """Run a command as a person would, who sees its progress."""
    print(f"{command} {' '.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", f"advx_jax.{command}", *arguments], cwd=ROOT)
    if done.returncode:
        raise UserError(f"expected advx_jax.{command} to succeed, got status {done.returncode}")


def _accuracy(model: str, files: Files) -> None:
    if not files.accuracy.exists():
        _call("evaluate", [model, f"--output={files.accuracy}"])
    if not files.sample_accuracy.exists():
        _call("evaluate", [model, "--data=sample", f"--output={files.sample_accuracy}"])


# The other commands go on by themselves.


def _explain(model: str, files: Files) -> None:
    indices = ",".join(map(str, SHOWN))
    _call("explain", [model, "--data=sample", f"--indices={indices}", f"--output={files.explanations}"])


def _ara(model: str, files: Files) -> None:
    _call("ara", [model, f"--n_images={_N_ARA_IMAGES.value}", f"--output={files.ara}"])


def _best_ara(model: str, files: Files) -> None:
    _call("ara", [model, "--attack=best", f"--n_images={_N_ARA_IMAGES.value}", f"--output={files.best_ara}"])


def _robustness(place: int, model: str, files: Files) -> None:
    ball = BALLS[place]
    size = [f"--norm={ball.norm}", f"--eps={ball.eps}", f"--n_images={_N_BALL_IMAGES.value}"]
    _call("robustness", [model, *size, f"--output={files.robustness[place]}"])


def _attackbench(norm: str, model: str, files: Files) -> None:
    chosen = [f"--norm={norm}", f"--attacks={','.join(BENCHED[norm])}", f"--n_images={_N_BENCH_IMAGES.value}"]
    if files.peers[norm].exists():
        chosen.append(f"--distances={files.peers[norm]}")
    _call("attackbench", [model, *chosen, f"--output={files.benches[norm]}"])


_MEASUREMENTS: dict[str, Callable[[str, Files], None]] = {
    "accuracy": _accuracy,
    "explain": _explain,
    "ara": _ara,
    "ara-best": _best_ara,
    **{f"robustness-{ball.norm}": functools.partial(_robustness, place) for place, ball in enumerate(BALLS)},
    **{f"attackbench-{norm}": functools.partial(_attackbench, norm) for norm in BENCHED},
}

_NETWORKS = flags.DEFINE_list("networks", None, "Which networks; all if not given.")
_ONLY = flags.DEFINE_list("only", None, f"Which of {', '.join(_MEASUREMENTS)}; all if not given.")
_N_ARA_IMAGES = flags.DEFINE_integer("n_ara_images", 1000, "Images of the accuracy-robustness areas.", lower_bound=1)
_N_BALL_IMAGES = flags.DEFINE_integer("n_ball_images", 64, "Images that AutoAttack attacks.", lower_bound=1)

_N_BENCH_IMAGES = flags.DEFINE_integer("n_bench_images", 32, "Images that attacks are scored on.", lower_bound=1)


@command()
def main(arguments: list[str]) -> None:
    """Run the commands that are still to be run."""
    no_arguments(arguments)
    if (found := len(load_images(None, "test"))) != N_TEST:
        raise UserError(f"expected all {N_TEST} test images (python -m advx_jax.data.cifar10), got {found}")
    only = list(_MEASUREMENTS) if _ONLY.value is None else _ONLY.value
    if unknown := [name for name in only if name not in _MEASUREMENTS]:
        raise UserError(f"expected --only among {', '.join(_MEASUREMENTS)}, got {', '.join(unknown)}")
    for measurement in only:
        for name in manifest() if _NETWORKS.value is None else _NETWORKS.value:
            _MEASUREMENTS[measurement](f"--model={name}", files_of(name))


if __name__ == "__main__":
    main()
