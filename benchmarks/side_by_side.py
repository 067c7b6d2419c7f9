"""What the benchmarks share: the two networks, alternating timings, a table, JSON."""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from advx_jax.analysis.workers import processor_cores
from advx_jax.cli.inference_flags import keep_compiled_code
from advx_jax.data.image_set import unit_images
from advx_jax.data.sample import load_sample
from advx_jax.errors import UserError
from advx_jax.networks.classifier import Classifier
from advx_jax.networks.resnet import ResNetArchitecture
from advx_jax.reports.console import table
from advx_jax.reports.results_json import head, write_json

ROOT = Path(__file__).parents[1]
RESULTS = Path(os.environ.get("ADVX_BENCHMARK_RESULTS", ROOT / "benchmarks" / "results"))

MODEL = os.environ.get("ADVX_BENCHMARK_MODEL", "resnet44-all")
_FORMAT = 1


class ModelPair(NamedTuple):
    """The same network twice, and images for both.

    Attributes:
        classifier: the Flax network.
        twin: the PyTorch network, in evaluation mode, on the kind of device that JAX uses.
        images: NHWC float32 on the [0,1] scale.
        labels: true classes.
        tensors: the images as the twin takes them, where it is.
    """

    classifier: Classifier
    twin: Any
    images: np.ndarray
    labels: np.ndarray
    tensors: Any


class Row(NamedTuple):
    """One line of the table: best times in seconds, and their ratio.

    Attributes:
        work: what was done.
        torch: best time of the twin.
        jax: best time of this project.
    """

    work: str
    torch: float
    jax: float

    @property
    def ratio(self) -> float:
        """Time of this project over the twin's."""
        return self.jax / self.torch


def model_pair() -> ModelPair:
    """Load the published network into both; PyTorch gets every core, or the accelerator that JAX uses."""
    from reference.images import to_torch

    from advx_jax.networks.registry import resolve_network

    keep_compiled_code()
    use_every_core()
    classifier = resolve_network(MODEL).classifier
    device = device_beside_jax()
    twin = twin_of(classifier).eval().to(device)
    twin.requires_grad_(False)
    data = load_sample()
    images = unit_images(data.images)
    return ModelPair(classifier, twin, images, data.labels.astype(np.int32), to_torch(images).to(device))


def device_beside_jax() -> str:
    """The device on which PyTorch does the same work, set to compute in float32 proper, as this project does.

    Raises:
        UserError: PyTorch cannot use the kind of device that JAX uses.
    """
    import torch

    platform = jax.default_backend()
    if platform == "cpu":
        return "cpu"
    if platform != "gpu" or not torch.cuda.is_available():
        raise UserError(f"expected a PyTorch that can use the {platform} as JAX does, got {torch.__version__}")
    torch.backends.cudnn.allow_tf32 = False
    # As XLA does, choose the fastest kernels by trying them.
    torch.backends.cudnn.benchmark = True
    return "cuda"


def use_every_core() -> None:
    """Let PyTorch use every core that this process may run on."""
    import torch

    torch.set_num_threads(processor_cores())


def twin_of(classifier: Classifier) -> Any:
    """The same network in PyTorch, with the same numbers, in training mode."""
    from reference.flax_layout import layer_names, state_dict_from_flax
    from reference.network import ResNet

    arch = classifier.architecture
    if not isinstance(arch, ResNetArchitecture):
        raise UserError(f"expected a network of the method's own family, got {arch.name}")
    twin = ResNet(arch.stage_lengths, arch.stage_widths, arch.n_classes, arch.activation == "half_huber")
    names = layer_names(arch.stage_lengths, arch.stage_widths)
    twin.load_state_dict(state_dict_from_flax(classifier.variables, twin, names))
    return twin


def compare(work: str, torch: Callable[[], object], jax: Callable[[], object], repeats: int) -> Row:
    """Time both in turns; the best time of each counts.

    The first call of each is not counted: it compiles, and it lets PyTorch choose its kernels.
    """
    torch(), jax()
    row = Row(work, *map(min, zip(*alternate(torch, jax, repeats), strict=True)))
    print(f"{row.work}: PyTorch {row.torch:.3f} s, JAX {row.jax:.3f} s, ratio {row.ratio:.2f}", flush=True)
    return row


def alternate(torch: Callable[[], object], jax: Callable[[], object], rounds: int) -> list[tuple[float, float]]:
    """Wall times of both, in turns, so that what else the machine does falls on both."""
    return [(seconds(torch), seconds(jax)) for _ in range(rounds)]


def seconds(work: Callable[[], object]) -> float:
    """Wall time of a call."""
    begin = time.perf_counter()
    work()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        # It returns before a GPU is done.
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def report(name: str, rows: Sequence[Row], **more: object) -> None:
    """Print the table and write `benchmarks/results/NAME.json`."""
    cells = [(row.work, f"{row.torch:.3f}", f"{row.jax:.3f}", f"{row.ratio:.2f}") for row in rows]
    print(table(("work", "PyTorch s", "JAX s", "JAX/PyTorch"), cells))
    results = {"rows": [row._asdict() | {"ratio": row.ratio} for row in rows]}
    write(name, {"model": MODEL} | torch_settings(), results | more)


def torch_settings() -> dict[str, Any]:
    """What PyTorch's times depend on."""
    import torch

    return {"torch": torch.__version__, "threads": torch.get_num_threads()}


def write(name: str, settings: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """Write `benchmarks/results/NAME.json` (or into `$ADVX_BENCHMARK_RESULTS`)."""
    path = RESULTS / f"{name}.json"
    write_json(path, {**head(f"benchmark {name}", _FORMAT, settings), **results})
    print(f"written: {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
