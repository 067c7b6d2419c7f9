"""Measure a network's accuracy-robustness area (ARA): accuracy and robustness in one number.

    python -m advx_jax.ara --model=resnet44-all
    python -m advx_jax.ara --model=resnet44-robust --n_images=100 --output=ara/robust-100
    python -m advx_jax.ara --model=network.pt --data=sample

Two values: the area until images are misclassified (attack), and until the network is no better than
random (BTR). Writes ara.json, the curve ara.png, and distances.json, from which an interrupted
measurement goes on. Distances are RMS on the [0,1] scale; times √3072 they are L2 norms.
"""

import dataclasses
from pathlib import Path

from absl import flags

from advx_jax import inference_flags
from advx_jax.analysis.robustness_area import PUBLISHED_SETTINGS
from advx_jax.commands import no_arguments, run
from advx_jax.reports.robustness_report import report_robustness

_N_IMAGES = flags.DEFINE_integer("n_images", None, "How many images of the published subset (1000 if not given).")
_EPS = flags.DEFINE_float("eps", PUBLISHED_SETTINGS.eps, "Length of the attack's path, as RMS.")
_STEPS = flags.DEFINE_integer("steps", PUBLISHED_SETTINGS.steps, "Number of attack steps.")
_MOMENTUM = flags.DEFINE_float("momentum", PUBLISHED_SETTINGS.momentum, "Momentum of the attack.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the results; ara/NAME if not given.")
_OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace results measured with other settings.")
_DIRECTION = flags.DEFINE_enum(
    "direction",
    "cross_entropy",
    ["cross_entropy", "scale_free"],
    "Gradient to follow: as published, or one that saturated networks cannot make vanish.",
)
_STAY_IN_RANGE = flags.DEFINE_boolean("stay_in_range", False, "Keep attacked images in [0,1]; the paper does not.")
flags.adopt_module_key_flags(inference_flags)


def main(arguments: list[str]) -> None:
    """Parse the flags, measure, print."""
    no_arguments(arguments)
    settings = dataclasses.replace(
        PUBLISHED_SETTINGS,
        eps=_EPS.value,
        steps=_STEPS.value,
        momentum=_MOMENTUM.value,
        direction=_DIRECTION.value,
        stay_in_range=_STAY_IN_RANGE.value,
    )
    inference_flags.check_settings(settings)
    network, data = inference_flags.load_network_and_images()
    n_images = inference_flags.check_n_images(_N_IMAGES.value, len(data), 1000)
    output = Path(_OUTPUT.value or f"ara/{network.provenance.name}")
    print(report_robustness(network, data, n_images, settings, output, _OVERWRITE.value))


if __name__ == "__main__":
    run(main, __doc__)
