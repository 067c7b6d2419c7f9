"""Time the explanation of 10 images towards all classes: published settings, ρ 0.1, 35 steps.

    python -m benchmarks.explain

PyTorch does it the published way, one image at a time in a batch of 12 rows (real, second, all ten);
JAX does the ten different ones, on all lanes. The JAX time of the first call, with nothing compiled
before, is told apart.
"""

import tempfile

import jax

from advx_jax.cli.commands import command, no_arguments
from advx_jax.analysis.explanations import explain
from benchmarks.side_by_side import compare, model_pair, report, seconds

N_IMAGES = 10
REPEATS = 3


@command()
def main(arguments: list[str]) -> None:
    """Run the benchmark."""
    no_arguments(arguments)
    from reference.explain import explain_image

    them = model_pair()
    images = them.images[:N_IMAGES]

    def with_jax() -> None:
        for _ in explain(them.classifier, images):
            pass

    def with_torch() -> None:
        for tensor, label in zip(them.tensors[:N_IMAGES], them.labels, strict=False):
            explain_image(them.twin, tensor, int(label))

    with tempfile.TemporaryDirectory() as empty:
        jax.config.update("jax_compilation_cache_dir", empty)
        cold = seconds(with_jax)
    print(f"JAX, first call, compilation included: {cold:.2f} s")
    rows = [compare(f"explain {N_IMAGES} images", with_torch, with_jax, REPEATS)]
    report("explain", rows, cold_seconds=cold)


if __name__ == "__main__":
    main()
