"""Score minimum-norm attacks against each other: how near each comes to the smallest distances.

    python -m advx_jax.attackbench --model=resnet44-all --norm=L2 --n_images=32
    python -m advx_jax.attackbench --model=resnet44-all --norm=Linf --attacks=fmn,fmn@500 --budget=2000
    python -m advx_jax.attackbench --across=attackbench/resnet44-all-L2,attackbench/resnet44-robust-L2

Each attack may make so many passes through the network, forward and backward, for each image of the ARA subset; they
are counted. Optimality is 1 for an attack that finds the smallest distance of each image that any of them found.
Writes attackbench.json, the curves attackbench.png, and distances.jsonl, from which an interrupted measurement goes on,
and in which other attacks, budgets or images only cost what is new.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from advx_jax.cli.commands import command, no_arguments
from advx_jax.analysis.subset import ara_subset
from advx_jax.attacks.named import MINIMUM_NORM, minimised, minimum_norm_attack
from advx_jax.attacks.projections import NORMS
from advx_jax.cli import inference_flags, run_flags
from advx_jax.cli.flag_types import check_alone, define_indices, define_norm, define_whole, distinct_indices, paths_of
from advx_jax.errors import UserError
from advx_jax.reports.attackbench import across
from advx_jax.runs.attackbench import AttackBench, Contestant
from advx_jax.runs.measurement import measure

_NORM = define_norm("norm", "L2", "Norm of the distances.", NORMS)
_ATTACKS = flags.DEFINE_list(
    "attacks",
    None,
    f"Which attacks, of {', '.join(MINIMUM_NORM)} or your own as package.module:name; NAME@PASSES for another budget. "
    "All that know the norm if not given.",
)
_BUDGET = define_whole("budget", 2000, "Passes through the network for each image, forward and backward.")
_N_IMAGES = define_whole("n_images", None, "How many images of the published subset (256 if not given).")
_INDICES = define_indices("indices", "Which test images instead, by index: 3,5 or 5000-5031.")
_DISTANCES = flags.DEFINE_list("distances", [], "JSON files with distances that others found, to be compared with.")
_ACROSS = flags.DEFINE_list("across", [], "Folders of finished results: print the mean over networks, measure nothing.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the results. If not given, attackbench/NAME-NORM.")
flags.adopt_module_key_flags(inference_flags)


@command()
def main(arguments: list[str]) -> None:
    """Parse the flags, measure, print."""
    no_arguments(arguments)
    if _ACROSS.value:
        check_alone(_ACROSS)
        print(across(paths_of(_ACROSS)))
        return
    contestants = [_contestant(name) for name in _ATTACKS.value or _all_attacks()]
    if _N_IMAGES.present and _INDICES.present:
        raise UserError("expected either --n_images or --indices, got both")
    with run_flags.share() as share:
        network, data, n_images = inference_flags.load_network_and_images(_N_IMAGES.value, 256)
        indices: Sequence[int] = ara_subset(data, n_images)
        if _INDICES.value is not None:
            indices, _ = distinct_indices(_INDICES.value, len(data))
        output = Path(_OUTPUT.value or f"attackbench/{network.provenance.name}-{_NORM.value}")
        known = paths_of(_DISTANCES)
        bench = AttackBench(network, data, indices, _NORM.value, contestants, output, known)
        print(measure(bench, run_flags.OVERWRITE.value, share).text)


def _all_attacks() -> list[str]:
    return [name for name, attack in MINIMUM_NORM.items() if _NORM.value in minimised(attack)]


def _contestant(name: str) -> Contestant:
    attack, at, budget = name.partition("@")
    if at and not (budget.isdecimal() and int(budget)):
        raise UserError(f"expected NAME@PASSES in --attacks, such as fmn@500, got {name!r}")
    return Contestant(name, minimum_norm_attack(attack, _NORM.value), int(budget) if at else _BUDGET.value)


if __name__ == "__main__":
    main()
