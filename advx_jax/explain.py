"""Explain images: change each a little until the network finds it more like each of the classes.

    python -m advx_jax.explain
    python -m advx_jax.explain --model=resnet44-all --beside=resnet44-standard
    python -m advx_jax.explain --model=resnet44-robust --indices=3,5 --eps=0.15 --output=deeper
    python -m advx_jax.explain --model=resnet44-all --images='photos/*.jpg' --output=photos-explained

Writes a folder of pictures for each image, index.html to look at them, and explanations.json. A second call
goes on where the first was interrupted. Without --model, our best robust network is shown beside an ordinary one.
"""

from pathlib import Path

from absl import flags

from advx_jax import attack_flags, inference_flags
from advx_jax.analysis.explanations import PUBLISHED_SETTINGS
from advx_jax.commands import no_arguments, run
from advx_jax.data.own_images import load_own_images
from advx_jax.errors import UserError
from advx_jax.reports.explanation_report import given_images, own_images, report_explanations

_EPS = flags.DEFINE_float("eps", PUBLISHED_SETTINGS.eps, "ρ: RMS of the change, on the [0,1] scale.")
_STEPS = flags.DEFINE_integer("steps", PUBLISHED_SETTINGS.steps, "Number of attack steps.")
_N_IMAGES = flags.DEFINE_integer("n_images", None, "How many test images, from the first (10 if not given).")
_INDICES = flags.DEFINE_list("indices", None, "Which test images instead, by index: 3,5.")
_IMAGES = flags.DEFINE_string("images", None, "Your own image files instead: a name or a glob pattern.")
_OUTPUT = flags.DEFINE_string("output", "output", "Folder for the pictures.")
_BESIDE = flags.DEFINE_string(
    "beside", None, "Second network, whose explanations of the same images are shown under the first's."
)
_STRICT = flags.DEFINE_boolean("strict", False, "Fail if an explanation did not reach ρ.")
flags.adopt_module_key_flags(inference_flags)
flags.adopt_module_key_flags(attack_flags)


def main(arguments: list[str]) -> None:
    """Parse the flags, explain, say what came out."""
    no_arguments(arguments)
    if sum((_N_IMAGES.present > 0, _INDICES.present > 0, _IMAGES.present > 0)) > 1:
        raise UserError("expected one of --n_images, --indices and --images, got several")
    if _IMAGES.value and inference_flags.data_was_given():
        raise UserError("expected either --images or --data, got both")
    settings = attack_flags.attack_settings(PUBLISHED_SETTINGS, _EPS.value, _STEPS.value)
    if _IMAGES.value:
        own = load_own_images(_IMAGES.value)
        for image in own:
            if image.treatment:
                print(image.treatment)
        network = inference_flags.load_network()
        images = own_images(network.classifier, own)
    else:
        network, data = inference_flags.load_network_and_images()
        images = given_images(data, _INDICES.value, inference_flags.check_n_images(_N_IMAGES.value, len(data), 10))
    beside = inference_flags.load_network_beside(_BESIDE.value)
    overwrite, strict = attack_flags.OVERWRITE.value, _STRICT.value
    print(report_explanations(network, images, settings, Path(_OUTPUT.value), overwrite, strict, beside))


if __name__ == "__main__":
    run(main, __doc__)
