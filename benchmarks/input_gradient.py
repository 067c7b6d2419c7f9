"""Time the input gradient, the heart of every attack, inside the attack loop at several batch sizes.

    python -m benchmarks.input_gradient

Both do ten steps of the bounded attack on one batch; PyTorch has every core for it. JAX runs as one
chunk on one lane, and as two chunks of half the size on two lanes, as `explain` and `ara` do.
"""

import jax
import numpy as np

from advx_jax.cli.commands import command, no_arguments
from advx_jax.analysis.segments import run_in_segments
from advx_jax.analysis.workers import Worker, spread
from advx_jax.attacks import PublishedBounded
from advx_jax.attacks.base import State
from benchmarks.side_by_side import ModelPair, Row, compare, model_pair, report

STEPS = 10
BATCHES = (8, 16, 32, 64, 128)
REPEATS = 5


@command()
def main(arguments: list[str]) -> None:
    """Run the benchmark."""
    no_arguments(arguments)
    them = model_pair()
    rows = [_compare(them, batch, lanes) for batch in BATCHES for lanes in (1, 2)]
    best = min(row.jax / (batch * STEPS) for row, batch in zip(rows, np.repeat(BATCHES, 2), strict=True))
    print(f"best: {1000 * best:.2f} ms per image and step")
    report("input_gradient", rows, steps=STEPS)


def _compare(them: ModelPair, batch: int, lanes: int) -> Row:
    import torch
    from reference.attack import bounded_attack

    tensors, labels = them.tensors[:batch], torch.tensor(them.labels[:batch], dtype=torch.int64)
    return compare(
        f"batch {batch} x {STEPS} steps, JAX on {lanes} lane{'s' * (lanes > 1)}",
        lambda: bounded_attack(them.twin, tensors, labels, eps=0.1, steps=STEPS),
        lambda: _attack(them, batch, lanes),
        REPEATS,
    )


def _attack(them: ModelPair, batch: int, lanes: int) -> None:
    attack = PublishedBounded(eps=0.1, steps=STEPS)
    size = batch // lanes

    def work(worker: Worker, begin: int) -> State:
        x, y = (worker.put(array[begin : begin + size]) for array in (them.images, them.labels))
        return jax.block_until_ready(run_in_segments(worker, attack, x, y))

    list(spread(them.classifier, range(0, batch, size), work))


if __name__ == "__main__":
    main()
