"""Time the input gradient, the heart of every attack, inside the attack loop at several batch sizes.

    python -m benchmarks.input_gradient

Both do ten steps of the bounded attack on one batch; PyTorch has every core for it. JAX runs as one
chunk on one lane, and as two chunks of half the size on two lanes, as `explain` and `ara` do. Then the same on two
lanes for networks of other families with random numbers, beside RobustBench's own classes
(`pip install --no-deps robustbench==1.1.1`), with fewer steps.
"""

import unittest

import jax
import numpy as np

from advx_jax.cli.commands import command, no_arguments
from advx_jax.analysis.segments import run_in_segments
from advx_jax.analysis.workers import Worker, spread
from advx_jax.attacks import PublishedBounded
from advx_jax.attacks.base import State
from advx_jax.convert.keys import to_flax
from advx_jax.errors import UserError
from advx_jax.networks.classifier import Classifier
from advx_jax.networks.named import architecture_named
from benchmarks.side_by_side import ModelPair, Row, compare, model_pair, report

STEPS = 10
BATCHES = (8, 16, 32, 64, 128)
REPEATS = 5
OTHERS, OTHERS_BATCH, OTHERS_STEPS = ("PreActResNet-18", "WideResNet-28-10"), 16, 2


@command()
def main(arguments: list[str]) -> None:
    """Run the benchmark."""
    no_arguments(arguments)
    them = model_pair()
    rows = [_compare(them, batch, lanes, STEPS) for batch in BATCHES for lanes in (1, 2)]
    best = min(row.jax / (batch * STEPS) for row, batch in zip(rows, np.repeat(BATCHES, 2), strict=True))
    print(f"best: {1000 * best:.2f} ms per image and step")
    rows += [_compare(_random_pair(name), OTHERS_BATCH, 2, OTHERS_STEPS, f"{name}, ") for name in OTHERS]
    report("input_gradient", rows, steps=STEPS)


def _random_pair(name: str) -> ModelPair:
    """A network with random numbers, in RobustBench's class and in ours, and noise for images."""
    import torch
    from robustbench_models import numpy_state, robustbench_file, with_random_numbers

    try:
        if name.startswith("PreActResNet"):
            module = robustbench_file("resnet")
            twin = module.PreActResNet(module.PreActBlock, [2, 2, 2, 2])
        else:
            twin = robustbench_file("wide_resnet").WideResNet(depth=28, widen_factor=10)
    except unittest.SkipTest as error:
        raise UserError(str(error)) from error
    twin = with_random_numbers(twin).requires_grad_(False)
    architecture = architecture_named(name)
    classifier = Classifier(to_flax(numpy_state(twin), architecture), architecture)
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(OTHERS_BATCH, *architecture.image_shape)).astype(np.float32)
    labels = rng.integers(0, architecture.n_classes, OTHERS_BATCH, np.int32)
    return ModelPair(classifier, twin, images, labels, torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))


def _compare(them: ModelPair, batch: int, lanes: int, steps: int, prefix: str = "") -> Row:
    import torch
    from reference.attack import bounded_attack

    tensors = them.tensors[:batch]
    labels = torch.tensor(them.labels[:batch], dtype=torch.int64, device=tensors.device)
    return compare(
        f"{prefix}batch {batch} x {steps} steps, JAX on {lanes} lane{'s' * (lanes > 1)}",
        lambda: bounded_attack(them.twin, tensors, labels, eps=0.1, steps=steps),
        lambda: _attack(them, batch, lanes, steps),
        REPEATS,
    )


def _attack(them: ModelPair, batch: int, lanes: int, steps: int) -> None:
    attack = PublishedBounded(eps=0.1, steps=steps)
    size = batch // lanes

    def work(worker: Worker, begin: int) -> State:
        x, y = (worker.put(array[begin : begin + size]) for array in (them.images, them.labels))
        return jax.block_until_ready(run_in_segments(worker, attack, x, y))

    list(spread(them.classifier, range(0, batch, size), work))


if __name__ == "__main__":
    main()
