"""Time attributions beside Captum's and metrics beside Quantus', on the same network, images, steps and draws' number.

    python -m benchmarks.attributions [--n_images=32] [--rounds=2]

Needs Captum and Quantus (the extra `peers`). PyTorch gets the images as one batch, and every core; ours are computed as
`ax.attribute_images` and `ax.score_attributions` do it, in chunks on all lanes. Both in turns, first calls not counted;
the best round of each counts. Processor time is that of all threads together. On a machine that does other work, too,
compare that, on one core (`taskset -c 0`): there no thread waits for another. Metrics are given the same gradients by
both; beside those that ask the network stand the passes that they need, alone: the least that they can take. Memory of
Integrated Gradients is what the compiled program says of itself, for 16 and 128 steps.
"""

import contextlib
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from advx_jax.cli.commands import command, no_arguments
from advx_jax.analysis.attribution import (
    Attribution,
    GradCAM,
    Gradient,
    InputXGradient,
    IntegratedGradients,
    Occlusion,
    SmoothGrad,
    attribute_images,
)
from advx_jax.analysis.faithfulness import FaithfulnessCorrelation, Metric, PixelFlipping, Sparseness
from advx_jax.errors import UserError
from benchmarks.side_by_side import ModelPair, Row, model_pair, report

# Of Integrated Gradients and SmoothGrad, and images that Captum puts through the network at once.
_STEPS, _SAMPLES = 64, 50
_MEMORY_STEPS = (16, 128)
_SUBSETS, _FLIPS = 50, 32
# Quantus takes half a second an image for some.
_QUANTUS_IMAGES = 16

_N_IMAGES = flags.DEFINE_integer("n_images", 32, "Images of the attributions, one batch.", lower_bound=4)
_ROUNDS = flags.DEFINE_integer("rounds", 2, "How often to time each.", lower_bound=1)


@command()
def main(arguments: list[str]) -> None:
    """Run the benchmark."""
    no_arguments(arguments)
    them, n_images = model_pair(), _N_IMAGES.value
    images, labels = them.images[:n_images], them.labels[:n_images]
    rows: list[Row] = []
    processor_ratios: dict[str, float] = {}

    def timed(name: str, theirs: Callable[[], object], ours: Callable[[], object]) -> None:
        theirs(), ours()
        rounds = [(_cost(theirs), _cost(ours)) for _ in range(_ROUNDS.value)]
        best = [min(times) for times in zip(*[(*one, *other) for one, other in rounds], strict=True)]
        rows.append(Row(name, best[0], best[2]))
        processor_ratios[name] = best[3] / best[1]
        wall, processor_time = (f"{best[place]:.3f} s and {best[place + 2]:.3f} s" for place in (0, 1))
        ratios = f"{rows[-1].ratio:.3f}, {processor_ratios[name]:.3f}"
        print(f"{name}: theirs and ours {wall}, processor time {processor_time}; ratios {ratios}", flush=True)

    for name, (method, by_captum) in _attributions(them, n_images).items():
        timed(name, by_captum, _ours(them, images, labels, method))
    gradients = attribute_images(them.classifier, *_of_quantus(them), Gradient())
    for name, (metric, by_quantus) in _metrics(them, gradients).items():
        timed(name, by_quantus, _scored(them, metric, gradients))
        if passes := metric.cost(them.classifier, them.classifier.image_shape).passes:
            timed(f"{passes} passes alone", *_passes(them, passes))
    memory = {steps: _memory(them, images[:16], labels[:16], steps) for steps in _MEMORY_STEPS}
    print(", ".join(f"IG with {steps} steps: {size / 2**20:.1f} MiB" for steps, size in memory.items()))
    report(
        "attributions",
        rows,
        n_images=n_images,
        n_images_of_quantus=_QUANTUS_IMAGES,
        processor=processor(),
        processor_time_ratios=processor_ratios,
        temporary_bytes_of_integrated_gradients={str(steps): size for steps, size in memory.items()},
    )


def _cost(work: Callable[[], object]) -> tuple[float, float]:
    """Wall time of a call, and processor time of all threads."""
    wall, processor_time = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor_time


def processor() -> str:
    """Its name, as the system says it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _ours(them: ModelPair, images: np.ndarray, labels: np.ndarray, method: Attribution) -> Callable[[], object]:
    return lambda: attribute_images(them.classifier, images, labels, method)


def _attributions(them: ModelPair, n_images: int) -> dict[str, tuple[Attribution, Callable[[], object]]]:
    """By name: our method, and Captum's."""
    import torch

    attr = _peer("captum.attr")
    twin = them.twin
    x = them.tensors[:n_images]
    y = torch.tensor(them.labels[:n_images], dtype=torch.int64, device=x.device)

    def leaf() -> Any:
        return x.clone().requires_grad_()

    def integrated() -> object:
        return attr.IntegratedGradients(twin).attribute(
            leaf(), target=y, n_steps=_STEPS, internal_batch_size=max(n_images, 32)
        )

    def smoothgrad() -> object:
        return attr.NoiseTunnel(attr.Saliency(twin)).attribute(
            leaf(), nt_samples=_SAMPLES, nt_samples_batch_size=1, stdevs=0.15, target=y, abs=False
        )

    def occlusion() -> object:
        with torch.no_grad():
            return attr.Occlusion(twin).attribute(x, (3, 8, 8), (3, 4, 4), target=y)

    last_stage = twin.pipe[-6][-1]
    return {
        "gradient": (Gradient(), lambda: attr.Saliency(twin).attribute(leaf(), target=y, abs=False)),
        "input x gradient": (InputXGradient(), lambda: attr.InputXGradient(twin).attribute(leaf(), target=y)),
        f"integrated gradients, {_STEPS} steps": (IntegratedGradients(steps=_STEPS, rule="gauss_legendre"), integrated),
        f"smoothgrad, {_SAMPLES} samples": (SmoothGrad(samples=_SAMPLES), smoothgrad),
        "occlusion, 49 windows": (Occlusion(), occlusion),
        "grad-cam": (GradCAM(upsample=False), lambda: attr.LayerGradCam(twin, last_stage).attribute(leaf(), target=y)),
    }


def _of_quantus(them: ModelPair) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels that metrics are measured with."""
    return them.images[:_QUANTUS_IMAGES], them.labels[:_QUANTUS_IMAGES]


def _metrics(them: ModelPair, gradients: np.ndarray) -> dict[str, tuple[Metric, Callable[[], object]]]:
    """By name: our metric, and Quantus'."""
    quantus = _peer("quantus")
    images, labels = _of_quantus(them)
    # Of pixels, as both have it where attributions have no channels.
    x = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    a = gradients.sum(-1)[:, None]

    def by_quantus(kind: Any, **settings: Any) -> Callable[[], object]:
        def work() -> object:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = kind(normalise=False, disable_warnings=True, display_progressbar=False, **settings)
                return made(them.twin, x, labels, a_batch=a.copy(), channel_first=True, softmax=False)

        return work

    pixels = a[0].size
    return {
        f"pixel flipping, {_FLIPS} steps": (
            PixelFlipping(steps=_FLIPS),
            by_quantus(quantus.PixelFlipping, features_in_step=pixels // _FLIPS, perturb_baseline=0.0),
        ),
        f"faithfulness correlation, {_SUBSETS} subsets": (
            FaithfulnessCorrelation(n_subsets=_SUBSETS, subset=0.1),
            by_quantus(
                quantus.FaithfulnessCorrelation, nr_runs=_SUBSETS, subset_size=pixels // 10, perturb_baseline=0.0
            ),
        ),
        "sparseness": (Sparseness(), by_quantus(quantus.Sparseness, abs=True)),
    }


def _scored(them: ModelPair, metric: Metric, gradients: np.ndarray) -> Callable[[], object]:
    images, labels = _of_quantus(them)
    pixels = gradients.sum(-1)
    return lambda: np.asarray(metric(them.classifier, images, labels, pixels))


def _passes(them: ModelPair, count: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """So many passes of the images that metrics are measured with: theirs, and ours in one program as metrics are."""
    import torch

    tensors, images = them.tensors[:_QUANTUS_IMAGES], jnp.asarray(_of_quantus(them)[0])

    def theirs() -> object:
        with torch.no_grad():
            return [them.twin(tensors) for _ in range(count)]

    @jax.jit
    def classify(model: Any, x: jax.Array) -> jax.Array:
        # Other images each time, or the compiler would make one pass of all.
        return jax.lax.scan(lambda _, shift: (None, model(x + shift)), None, jnp.linspace(0, 0.1, count))[1]

    return theirs, lambda: jax.block_until_ready(classify(them.classifier, images))


def _memory(them: ModelPair, images: np.ndarray, labels: np.ndarray, steps: int) -> int:
    """Temporary memory of the compiled program, in bytes."""
    method = IntegratedGradients(steps=steps)

    def work(model: Any, x: jax.Array, y: jax.Array, keys: jax.Array) -> jax.Array:
        return method.attribute(model, x, y, keys)

    keys = jax.random.split(jax.random.key(0), len(images))
    compiled = jax.jit(work).lower(them.classifier, jnp.asarray(images), jnp.asarray(labels), keys).compile()
    analysis: Any = compiled.memory_analysis()
    return int(analysis.temp_size_in_bytes)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _peer(module: str) -> Any:
    from reference.peers import peer

    try:
        with _quietly():
            return peer(module)
    except ImportError as error:
        raise UserError(f"expected {module} (pip install -e '.[peers]'), got {error}") from error


if __name__ == "__main__":
    main()
