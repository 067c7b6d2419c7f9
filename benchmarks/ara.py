"""Time the accuracy-robustness area of some images: published settings, 450 steps, both kinds.

    python -m benchmarks.ara [--steps=450] [--n_images=32]

PyTorch attacks the images as one batch; JAX in chunks on all lanes, and without the images
that are over the boundary to begin with, whose distance is 0.
"""

import functools

from absl import flags

from advx_jax.cli.commands import command, no_arguments
from advx_jax.analysis.robustness_area import KINDS, minimum_norm_distances
from advx_jax.attacks import Published
from benchmarks.side_by_side import Row, model_pair, report, seconds

_N_IMAGES = flags.DEFINE_integer("n_images", 32, "Images, at most 256; a GPU is better filled by more.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", Published().steps, "Number of attack steps.")


@command()
def main(arguments: list[str]) -> None:
    """Run the benchmark."""
    no_arguments(arguments)
    them, steps, n_images = model_pair(), _STEPS.value, _N_IMAGES.value
    import torch
    from reference.ara import minimum_distances

    images, labels = them.images[:n_images], them.labels[:n_images]
    y = torch.tensor(labels, dtype=torch.int64, device=them.tensors.device)

    def with_jax(kind: str, steps: int) -> None:
        attack = Published(steps=steps, criterion=KINDS[kind])
        for _ in minimum_norm_distances(them.classifier, images, labels, attack):
            pass

    def with_torch(kind: str, steps: int) -> None:
        minimum_distances(them.twin, them.tensors[:n_images], y, kind, steps=steps)

    rows, cold = [], {}
    for kind in KINDS:
        with_torch(kind, 5)
        cold[kind] = seconds(functools.partial(with_jax, kind, steps))
        times = [seconds(functools.partial(work, kind, steps)) for work in (with_torch, with_jax)]
        rows.append(Row(f"{kind}: {n_images} images x {steps} steps", *times))
        print(
            f"{rows[-1].work}: PyTorch {times[0]:.1f} s, JAX {times[1]:.1f} s (first call {cold[kind]:.1f} s)",
            flush=True,
        )
    rows.append(Row("both", sum(row.torch for row in rows), sum(row.jax for row in rows)))
    report("ara", rows, steps=steps, n_images=n_images, first_call_seconds=cold)


if __name__ == "__main__":
    main()
