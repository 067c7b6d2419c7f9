"""Explain images: change each a little until the network finds it more like each of the classes.

    python -m advx_jax.explain
    python -m advx_jax.explain --model=resnet44-all --beside=resnet44-standard
    python -m advx_jax.explain --model=resnet44-all --images='photos/*.jpg' --output=photos-explained
    python -m advx_jax.explain --model=resnet44-all --labels=photos/labels.csv --output=photos-explained
    python -m advx_jax.explain --methods=adversarial,integrated_gradients,smoothgrad,grad_cam --output=compared

Writes a folder of pictures for each image, index.html to look at them, and explanations.json. A second call
goes on where the first was interrupted. Without --model, our best robust network is shown beside an ordinary one.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from advx_jax.cli.commands import command, no_arguments
from advx_jax.analysis.soundness import fitted
from advx_jax.cli import explanation_flags, inference_flags, own_image_flags, run_flags, target_flags
from advx_jax.cli.flag_types import define_indices, define_whole, distinct_indices
from advx_jax.errors import UserError
from advx_jax.runs.explain import given_images, own_images, write_explanations

_N_IMAGES = define_whole("n_images", None, "How many test images, from the first (10 if not given).")
_INDICES = define_indices("indices", "Which test images instead, by index: 3,5 or 0-9,15.")
_OUTPUT = flags.DEFINE_string("output", "output", "Folder for the pictures.")
_BESIDE = flags.DEFINE_string(
    "beside", None, "Second network, whose explanations of the same images are shown under the first's."
)
_STRICT = flags.DEFINE_boolean(
    "strict",
    False,
    "Fail if an explanation did not reach ρ, and before any work if an image of --images cannot be read.",
)
for module in (inference_flags, explanation_flags, own_image_flags, target_flags):
    flags.adopt_module_key_flags(module)


@command()
def main(arguments: list[str]) -> None:
    """Parse the flags, explain, say what came out."""
    own_image_flags.check(arguments, (_N_IMAGES, _INDICES))
    no_arguments(arguments)
    if _N_IMAGES.present and _INDICES.present:
        raise UserError("expected either --n_images or --indices, got both")
    attack = explanation_flags.attack()
    with run_flags.share() as share:
        methods = explanation_flags.methods(attack)
        network = inference_flags.load_network()
        own = own_image_flags.load(network, _STRICT.value)
        if own is not None:
            network = fitted(network, shape := own.images[0].pixels.shape)
            images = own_images(network.classifier, own.images)
        else:
            network, data = inference_flags.load_images(network)
            images, shape = given_images(data, _places(len(data))), data.images.shape[1:]
        beside = inference_flags.load_network_beside(_BESIDE.value, shape)
        overwrite, output = run_flags.OVERWRITE.value, Path(_OUTPUT.value)
        targets = target_flags.chosen(images.class_names)
        settings = overwrite, _STRICT.value, beside, share, targets
        print(write_explanations(network, images, attack, output, *settings, methods=methods))
        for line in own_image_flags.left_out(own):
            print(line)


def _places(available: int) -> Sequence[int]:
    """Which test images to explain."""
    if _INDICES.value is None:
        return range(inference_flags.check_n_images(_N_IMAGES.value, available, 10))
    places, repeated = distinct_indices(_INDICES.value, available)
    if repeated:
        print(f"explained once each, though named more often: {', '.join(map(str, repeated))}")
    return places


if __name__ == "__main__":
    main()
