"""Measure how much accuracy attacks leave a network within a ball around each image, as RobustBench does.

    python -m advx_jax.robustness --model=resnet44-all --norm=L2 --eps=0.5
    python -m advx_jax.robustness --model=resnet44-all --norm=Linf --eps=0.0157 --attack=apgd-ce --n_images=200
    python -m advx_jax.robustness --model=network.pt --norm=L2 --eps=0.5 --attack=square --steps=500 --pictures

The images are the first of the test set, in its order. --eps is a usual norm on the [0,1] scale: an L2
norm (RMS times √3072 for CIFAR-10), or the largest change of any value (Linf). autoattack is its standard
version: apgd-ce, apgd-t, fab-t, square, each on the images that still stand. Writes robustness.json,
broken images as broken/INDEX.npy, and images.json, from which an interrupted measurement goes on.
"""

import math
from pathlib import Path

from absl import flags

from advx_jax import inference_flags
from advx_jax.attacks.autoattack import STAGES, STANDARD
from advx_jax.commands import no_arguments, run
from advx_jax.errors import UserError
from advx_jax.reports.fixed_budget_report import report_fixed_budget
from advx_jax.reports.fixed_budget_run import Plan

_NORM = flags.DEFINE_enum("norm", "L2", ["L2", "Linf"], "Norm of the ball.")
_EPS = flags.DEFINE_float("eps", None, "Radius of the ball in that norm, for instance 0.5 for L2 or 0.0314 for Linf.")
_ATTACK = flags.DEFINE_enum("attack", "autoattack", ["autoattack", *STAGES], "Attack, or all of AutoAttack's.")
_N_IMAGES = flags.DEFINE_integer("n_images", None, "How many test images, from the first (1000 if not given).")
_STEPS = flags.DEFINE_integer("steps", None, "Steps of each run of each attack; the field's usual ones if not given.")
_RESTARTS = flags.DEFINE_integer(
    "restarts", 1, "Runs of each attack from other random points (towards each target); fab-t draws none, and has one."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of all random draws.", lower_bound=0, upper_bound=2**32 - 1)
_CLIP = flags.DEFINE_boolean("stay_in_range", True, "Keep perturbed images in [0,1].")
_PICTURES = flags.DEFINE_boolean("pictures", False, "Write a picture of each broken image.")
_OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace results made with other settings.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for the results. If not given, robustness/NAME-NORM-EPS, and -ATTACK if it is a single one."
)
flags.adopt_module_key_flags(inference_flags)


def main(arguments: list[str]) -> None:
    """Parse the flags, measure, print."""
    no_arguments(arguments)
    eps, steps, attack, norm = _EPS.value, _STEPS.value, _ATTACK.value, _NORM.value
    if eps is None or not 0 < eps < math.inf:
        raise UserError(f"expected --eps above 0, for instance --norm=L2 --eps=0.5, got {eps}")
    if steps is not None and steps < 1:
        raise UserError(f"expected --steps of at least 1, got {steps}")
    if _RESTARTS.value < 1:
        raise UserError(f"expected --restarts of at least 1, got {_RESTARTS.value}")
    stages = STANDARD if attack == "autoattack" else (STAGES[attack],)
    if steps is not None:
        stages = tuple(stage._replace(steps=steps) for stage in stages)
    stages = tuple(stage.restarted(_RESTARTS.value) for stage in stages)
    if _RESTARTS.value > 1 and not any(stage.random for stage in stages):
        raise UserError(f"expected --restarts=1 for {attack}, which draws nothing at random, got {_RESTARTS.value}")
    network, data = inference_flags.load_network_and_images()
    n_images = inference_flags.check_n_images(_N_IMAGES.value, len(data), 1000)
    suffix = "" if attack == "autoattack" else f"-{attack}"
    output = Path(_OUTPUT.value or f"robustness/{network.provenance.name}-{norm}-{eps:g}{suffix}")
    plan = Plan(attack, stages, eps, norm, _SEED.value, _CLIP.value, n_images)
    print(report_fixed_budget(network, data, plan, output, _OVERWRITE.value, _PICTURES.value))


if __name__ == "__main__":
    run(main, __doc__)
