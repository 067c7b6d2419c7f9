"""Measure a network's accuracy and loss on test images, CIFAR-10's if no others are named.

python -m advx_jax.evaluate --model=resnet44-all
python -m advx_jax.evaluate --model=prebuilt/resnet44-robust.safetensors --data=sample --n_images=100
python -m advx_jax.evaluate --model=network.pt --output=accuracy.json
"""

from pathlib import Path

from absl import flags

from advx_jax.cli.commands import command, no_arguments
from advx_jax.cli import inference_flags, run_flags
from advx_jax.cli.flag_types import define_whole
from advx_jax.errors import UserError
from advx_jax.reports.results_json import write_json
from advx_jax.runs.evaluate import Evaluation, results_path
from advx_jax.runs.measurement import measure

_N_IMAGES = define_whole("n_images", None, "How many test images, from the first; all if not given.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "Write the result to this JSON file too, and each image's to a .jsonl file beside it."
)
flags.adopt_module_key_flags(inference_flags)


@command()
def main(arguments: list[str]) -> None:
    """Parse the flags, measure, print."""
    no_arguments(arguments)
    output = results_path(Path(_OUTPUT.value)) if _OUTPUT.value else None
    with run_flags.share() as share:
        if output is None and share.count > 1:
            raise UserError("expected --output, where the processes put what they find, got none")
        network, data, n_images = inference_flags.load_network_and_images(_N_IMAGES.value, None)
        outcome = measure(Evaluation(network, data, n_images, output), run_flags.OVERWRITE.value, share)
        if outcome.summary is None:
            print(outcome.status)
            return
        results = outcome.summary
        what = "images" if data.is_whole else "test images"
        try:
            # First, because a disk may be full; the reader may have left, too.
            print(
                f"{network.provenance.name} on {n_images} {what} ({data.source}): "
                f"accuracy {results['accuracy']:.4f}, loss {results['loss']:.4f}",
                flush=True,
            )
        finally:
            if output:
                write_json(output, results)


if __name__ == "__main__":
    main()
