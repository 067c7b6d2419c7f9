"""Measure a network's accuracy-robustness area (ARA): accuracy and robustness in one number.

    python -m advx_jax.ara --model=resnet44-all
    python -m advx_jax.ara --model=resnet44-robust --n_images=100 --output=ara/robust-100
    python -m advx_jax.ara --model=network.pt --data=sample
    python -m advx_jax.ara --model=resnet44-all --attack=best
    python -m advx_jax.ara --model=resnet44-all --attack=fmn --norm=L1 --budget=500
    python -m advx_jax.ara --compare=ara/resnet44-all,ara/resnet44-robust

Two values: the area until images are misclassified (attack), and until the network is no better than
random (BTR). An attack finds upper bounds of distances; --attack=best finds smaller ones than the paper's
attack, with fewer gradients. Writes ara.json, the curve ara.png, and distances.jsonl, from which an interrupted
measurement goes on, and which several calls at once share. Distances are RMS on the [0,1] scale; times √3072 they
are L2 norms. --norm tells them in a norm that the attack minimises; the paper's minimises RMS, which is L2.
"""

from pathlib import Path

from absl import flags

from advx_jax.cli.commands import command, no_arguments
from advx_jax.attacks import Published
from advx_jax.attacks.named import MINIMUM_NORM, minimised
from advx_jax.attacks.projections import NORMS
from advx_jax.cli import attack_flags, inference_flags, run_flags
from advx_jax.cli.flag_types import check_alone, define_length, define_momentum, define_norm, define_whole, paths_of
from advx_jax.reports.ara_compare import compare_areas
from advx_jax.runs.ara import RobustnessAreas
from advx_jax.runs.measurement import measure

_N_IMAGES = define_whole("n_images", None, "How many images of the published subset (1000 if not given).")
_ATTACK = flags.DEFINE_string(
    "attack",
    "published",
    f"How distances are looked for: {', '.join(MINIMUM_NORM)}, or an attack of your own as package.module:name.",
)
_NORM = define_norm("norm", None, "Norm to minimise, and to tell distances in; RMS if not given.", NORMS)
_EPS = define_length("eps", Published().eps, "Length of the published attack's path, as RMS.")
_DEFAULTS = ", ".join(f"{attack.n_steps} for {name}" for name, attack in MINIMUM_NORM.items())
_STEPS = define_whole("steps", None, f"Number of attack steps, a gradient each. If not given: {_DEFAULTS}.")
_BUDGET = define_whole("budget", None, "Gradients for each image instead: as many steps as they allow, counted.")
_MOMENTUM = define_momentum("momentum", Published().momentum, "Momentum of the published attack.")
_COMPARE = flags.DEFINE_list("compare", [], "Folders of finished results: draw them in one figure, measure nothing.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for the results. If not given, ara/NAME, and -ATTACK and -NORM if they are."
)
flags.adopt_module_key_flags(inference_flags)
flags.adopt_module_key_flags(attack_flags)


@command()
def main(arguments: list[str]) -> None:
    """Parse the flags, measure, print."""
    no_arguments(arguments)
    if _COMPARE.value:
        check_alone(_COMPARE, _OUTPUT)
        print(compare_areas(paths_of(_COMPARE), Path(_OUTPUT.value or "ara")))
        return
    norm, steps = _NORM.value, attack_flags.Steps(_STEPS.value, _BUDGET.value)
    attack = attack_flags.minimum_norm(_ATTACK.value, norm, steps, _EPS, _MOMENTUM)
    if norm is None and "L2" not in (known := minimised(attack)):
        # The paper's unit, RMS, is L2's: what another norm makes smallest is far from smallest in it.
        norm = next(iter(known), None)
    with run_flags.share() as share:
        network, data, n_images = inference_flags.load_network_and_images(_N_IMAGES.value, 1000)
        attack = attack_flags.within(steps, attack, network.classifier.n_classes, data.images.shape[1:])
        suffix = ("" if attack.name == "published" else f"-{attack.name}") + (f"-{norm}" if norm else "")
        output = Path(_OUTPUT.value or f"ara/{network.provenance.name}{suffix}")
        areas = RobustnessAreas(network, data, n_images, attack, output, norm)
        print(measure(areas, run_flags.OVERWRITE.value, share).text)


if __name__ == "__main__":
    main()
