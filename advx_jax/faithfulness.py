"""Compare explanations by numbers: how faithful, stable and sparse each method's are.

    python -m advx_jax.faithfulness --model=resnet44-all
    python -m advx_jax.faithfulness --methods=adversarial,integrated_gradients,random --metrics=deletion,insertion,road
    python -m advx_jax.faithfulness --methods='smoothgrad(samples=16),mine:Method' --metrics='deletion(steps=16)'
    python -m advx_jax.faithfulness --model=resnet44-robust --beside=faithfulness/resnet44-standard

Each method explains the first test images for the network's top class; each metric scores the explanations. The table
has means over images with their 95% intervals, and which method is best. Writes faithfulness.json, the figure
faithfulness.png and faithfulness.svg, and faithfulness.jsonl with the numbers of each image, from which an interrupted
call goes on, and which several calls at once share.
"""

from pathlib import Path

from absl import flags

from advx_jax.cli.commands import command, no_arguments
from advx_jax.analysis.attribution import METHODS, VARIANTS, find_method
from advx_jax.analysis.faithfulness import METRICS, find_metric
from advx_jax.cli import inference_flags, run_flags
from advx_jax.cli.flag_types import define_whole, paths_of
from advx_jax.cli.named_flags import read_named
from advx_jax.reports.faithfulness_files import read_faithfulness
from advx_jax.runs.faithfulness import TARGETS, Faithfulness
from advx_jax.runs.measurement import measure

_USUAL_METHODS = "adversarial,gradient,input_x_gradient,integrated_gradients,smoothgrad,grad_cam,occlusion,random"
_USUAL_METRICS = (
    "deletion(steps=32),insertion(steps=32),road,faithfulness_correlation(n_subsets=50),infidelity_scaled(n_samples=50),"
    "max_sensitivity(n_samples=4),random_logit,sparseness,completeness"
)

_METHODS = flags.DEFINE_string(
    "methods",
    _USUAL_METHODS,
    f"How to explain: {', '.join([*METHODS, *VARIANTS])}, or yours, package.module:name; settings in brackets, "
    "smoothgrad(samples=16).",
)
_METRICS = flags.DEFINE_string(
    "metrics", _USUAL_METRICS, f"What to score by: {', '.join(METRICS)}; settings in brackets, deletion(steps=16)."
)
_N_IMAGES = define_whole("n_images", None, "How many test images, from the first (16 if not given).")
_TARGET = flags.DEFINE_enum("target", "predicted", TARGETS, "Explain the network's top class, or the real one.")
_SEED = define_whole("seed", 0, "Of all random draws.", least=0, most=2**32 - 1)
_BESIDE = flags.DEFINE_list("beside", [], "Folders of earlier results, of other networks, to show in the figure too.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the results. If not given, faithfulness/NAME.")
flags.adopt_module_key_flags(inference_flags)


@command()
def main(arguments: list[str]) -> None:
    """Parse the flags, measure, print."""
    no_arguments(arguments)
    methods = read_named(_METHODS.value, find_method, _METHODS.name)
    metrics = read_named(_METRICS.value, find_metric, _METRICS.name)
    beside = [read_faithfulness(folder) for folder in paths_of(_BESIDE)]
    asked_for = [name for flag, named in ((_METHODS, methods), (_METRICS, metrics)) if flag.present for name in named]
    with run_flags.share() as share:
        network, data, n_images = inference_flags.load_network_and_images(_N_IMAGES.value, 16)
        output = Path(_OUTPUT.value or f"faithfulness/{network.provenance.name}")
        chosen = methods, metrics, _TARGET.value, _SEED.value
        scores = Faithfulness(network, data, n_images, *chosen, output, frozenset(asked_for), beside)
        print(scores.cost_in_words(), flush=True)
        print(measure(scores, run_flags.OVERWRITE.value, share).text)


if __name__ == "__main__":
    main()
