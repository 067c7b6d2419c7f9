"""Measure a network's accuracy-robustness area (ARA): accuracy and robustness in one number.

    python -m advx_jax.ara --model=resnet44-all
    python -m advx_jax.ara --model=resnet44-robust --n_images=100 --output=ara/robust-100
    python -m advx_jax.ara --model=network.pt --data=sample

Two values: the area until images are misclassified (attack), and until the network is no better than
random (BTR). Writes ara.json, the curve ara.png, and distances.json, from which an interrupted
measurement goes on. Distances are RMS on the [0,1] scale; times √3072 they are L2 norms.
"""

from pathlib import Path

from absl import flags

from advx_jax import attack_flags, inference_flags
from advx_jax.analysis.robustness_area import PUBLISHED_SETTINGS
from advx_jax.commands import no_arguments, run
from advx_jax.reports.robustness_report import report_robustness

_N_IMAGES = flags.DEFINE_integer("n_images", None, "How many images of the published subset (1000 if not given).")
_EPS = flags.DEFINE_float("eps", PUBLISHED_SETTINGS.eps, "Length of the attack's path, as RMS.")
_STEPS = flags.DEFINE_integer("steps", PUBLISHED_SETTINGS.steps, "Number of attack steps.")
_MOMENTUM = flags.DEFINE_float("momentum", PUBLISHED_SETTINGS.momentum, "Momentum of the attack.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the results; ara/NAME if not given.")
flags.adopt_module_key_flags(inference_flags)
flags.adopt_module_key_flags(attack_flags)


def main(arguments: list[str]) -> None:
    """Parse the flags, measure, print."""
    no_arguments(arguments)
    settings = attack_flags.attack_settings(PUBLISHED_SETTINGS, _EPS.value, _STEPS.value, _MOMENTUM.value)
    network, data = inference_flags.load_network_and_images()
    n_images = inference_flags.check_n_images(_N_IMAGES.value, len(data), 1000)
    output = Path(_OUTPUT.value or f"ara/{network.provenance.name}")
    print(report_robustness(network, data, n_images, settings, output, attack_flags.OVERWRITE.value))


if __name__ == "__main__":
    run(main, __doc__)
