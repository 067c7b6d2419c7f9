"""Measure how much accuracy attacks leave within a ball around each image, as RobustBench does.

    python -m advx_jax.robustness --model=resnet44-all --norm=L2 --eps=0.5 --n_images=16
    python -m advx_jax.robustness --model=resnet44-all --norm=Linf --eps=4/255 --attack=apgd-ce --n_images=200
    python -m advx_jax.robustness --model=network.pt --norm=L2 --eps=0.5 --attack=square --steps=500 --pictures

The images are the first of the test set, in its order. --eps is a usual norm on the [0,1] scale: an L2 norm (RMS times
√3072 for CIFAR-10), the sum of all changes (L1), or the largest change of any value (Linf). autoattack is its standard
version: apgd-ce, apgd-t, fab-t, square, each on the images that still stand. Writes robustness.json, broken images as
broken/INDEX.npy, and images.jsonl, from which an interrupted measurement goes on, and which several calls share.
"""

import math
from pathlib import Path

from absl import flags

from advx_jax.cli.commands import command, no_arguments
from advx_jax.attacks import Attack
from advx_jax.attacks.named import FIXED_EPSILON, VERSIONS, autoattack_named, fixed_epsilon_members, folder_suffix
from advx_jax.attacks.threat_model import spans_box, threat_model
from advx_jax.cli import inference_flags, run_flags
from advx_jax.cli.flag_types import check_eps_within_box, define_length, define_norm, define_whole
from advx_jax.runs.measurement import measure
from advx_jax.runs.robustness import RobustAccuracy

_NORM = define_norm("norm", "L2", "Norm of the ball; L1 for all attacks but pgd.", ("L1", "L2", "Linf"))
_EPS = define_length(
    "eps", None, "Radius of the ball in that norm, for instance 12 for L1, 0.5 for L2, 8/255 for Linf."
)
_ATTACK = flags.DEFINE_string("attack", "autoattack", f"{', '.join(FIXED_EPSILON)}, or yours: package.module:name.")
_VERSION = flags.DEFINE_enum("version", VERSIONS[0], VERSIONS, "Of autoattack; rand is for random networks.")
_N_IMAGES = define_whole("n_images", None, "How many test images, from the first (1000 if not given).")
_STEPS = define_whole("steps", None, "Steps of each run of each attack; the field's usual ones if not given.")
_RESTARTS = define_whole(
    "restarts", 1, "Runs of each attack from other random points (towards each target); fab-t draws none, and has one."
)
_SEED = define_whole("seed", 0, "Of all random draws.", least=0, most=2**32 - 1)
_CLIP = flags.DEFINE_boolean("stay_in_range", True, "Keep perturbed images in [0,1].")
_PICTURES = flags.DEFINE_boolean("pictures", False, "Write a picture of each broken image.")
_START_FROM = flags.DEFINE_string(
    "start_from", None, "Folder of other results, of another network say: the images broken there are looked at first."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for the results. If not given, robustness/NAME-NORM-EPS, and -ATTACK if it is a single one."
)
flags.adopt_module_key_flags(inference_flags)


@command()
def main(arguments: list[str]) -> None:
    """Parse the flags, measure, print."""
    no_arguments(arguments)
    name = autoattack_named(_ATTACK.value, _VERSION.value)
    members = _members(name)
    threat = threat_model(members)
    with run_flags.share() as share:
        network, data, n_images = inference_flags.load_network_and_images(_N_IMAGES.value, 1000)
        n_values = math.prod(data.images.shape[1:])
        check_eps_within_box(threat.eps, spans_box(threat.norm, n_values), threat.norm)
        suffix = folder_suffix(name, members)
        output = Path(_OUTPUT.value or f"robustness/{network.provenance.name}-{threat.norm}-{threat.eps:g}{suffix}")
        attacks = name, members, _SEED.value
        start_from = None if _START_FROM.value is None else Path(_START_FROM.value)
        accuracy = RobustAccuracy(network, data, n_images, *attacks, output, _PICTURES.value, start_from)
        print(measure(accuracy, run_flags.OVERWRITE.value, share).text)


def _members(name: str) -> tuple[Attack, ...]:
    """The attacks of --attack, changed as the flags say that are given."""
    given = {flag.name: flag.value for flag in (_EPS, _NORM, _CLIP, _STEPS, _RESTARTS) if flag.present}
    if "eps" in given and ("norm" in given or name.lower() in FIXED_EPSILON) and _NORM.value == "Linf":
        # What is meant in levels of 255 is refused by the flag's name, before an attack refuses it.
        check_eps_within_box(_EPS.value, 1.0, _NORM.value)
    return fixed_epsilon_members(name, **given)


if __name__ == "__main__":
    main()
