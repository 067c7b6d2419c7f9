"""Measure a network's accuracy-robustness area (ARA): accuracy and robustness in one number.

    python -m advx_jax.ara --model=resnet44-all
    python -m advx_jax.ara --model=resnet44-robust --n_images=100 --output=ara/robust-100
    python -m advx_jax.ara --model=network.pt --data=sample
    python -m advx_jax.ara --model=resnet44-all --attack=best

Two values: the area until images are misclassified (attack), and until the network is no better than
random (BTR). An attack finds upper bounds of distances; --attack=best finds smaller ones than the paper's
attack, with fewer gradients. Writes ara.json, the curve ara.png, and distances.jsonl, from which an interrupted
measurement goes on, and which several calls at once share. Distances are RMS on the [0,1] scale; times √3072 they
are L2 norms.
"""

from pathlib import Path

from absl import flags

from advx_jax.cli.commands import command, no_arguments
from advx_jax.attacks import Attack, Published
from advx_jax.attacks.named import MINIMUM_NORM, minimum_norm_attack
from advx_jax.cli import attack_flags, inference_flags, run_flags
from advx_jax.cli.flag_types import define_length, define_momentum, define_whole
from advx_jax.runs.ara import RobustnessAreas
from advx_jax.runs.measurement import measure

_N_IMAGES = define_whole("n_images", None, "How many images of the published subset (1000 if not given).")
_PUBLISHED = Published()
_ATTACK = flags.DEFINE_string(
    "attack",
    "published",
    f"How distances are looked for: {', '.join(MINIMUM_NORM)}, or an attack of your own as package.module:name.",
)
_EPS = define_length("eps", _PUBLISHED.eps, "Length of the published attack's path, as RMS.")
_STEPS = define_whole(
    "steps",
    None,
    "Number of attack steps, a gradient each. If not given: "
    + ", ".join(f"{attack.n_steps} for {name}" for name, attack in MINIMUM_NORM.items())
    + ".",
)
_MOMENTUM = define_momentum("momentum", _PUBLISHED.momentum, "Momentum of the published attack.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the results. If not given, ara/NAME, or ara/NAME-ATTACK.")
flags.adopt_module_key_flags(inference_flags)
flags.adopt_module_key_flags(attack_flags)


@command()
def main(arguments: list[str]) -> None:
    """Parse the flags, measure, print."""
    no_arguments(arguments)
    attack = _attack(_ATTACK.value.lower() if _ATTACK.value.lower() in MINIMUM_NORM else _ATTACK.value)
    with run_flags.share() as share:
        network, data, n_images = inference_flags.load_network_and_images(_N_IMAGES.value, 1000)
        suffix = "" if attack.name == "published" else f"-{attack.name}"
        output = Path(_OUTPUT.value or f"ara/{network.provenance.name}{suffix}")
        areas = RobustnessAreas(network, data, n_images, attack, output)
        print(measure(areas, run_flags.OVERWRITE.value, share).text)


def _attack(name: str) -> Attack:
    if name != "published":
        return attack_flags.other_attack(name, minimum_norm_attack(name), _STEPS.value, _EPS.name, _MOMENTUM.name)
    steps = _PUBLISHED.steps if _STEPS.value is None else _STEPS.value
    return attack_flags.paper_attack(_PUBLISHED, _EPS.value, steps, _MOMENTUM.value)


if __name__ == "__main__":
    main()
