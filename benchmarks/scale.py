"""What it takes to measure a large network on a large test set, on one device and on many.

    python -m benchmarks.scale [--network=ResNet-50-imagenet] [--n_images=50000]
    python -m benchmarks.scale --gradients_per_second=1000

Passes through the network are counted in the attacks' programs. A pass, decoding an image and compiling are timed on
this machine, with random numbers for a network, for the time does not depend on them. The rest is arithmetic: images
are independent, so that devices divide them. A device is what JAX computes on here, or another that makes as many
gradients a second as is said.
"""

import io
import time
from collections.abc import Callable

import jax
import numpy as np
from absl import flags
from PIL import Image

from advx_jax.cli.commands import command, no_arguments
from advx_jax._runtime import keep_compiled_code
from advx_jax.analysis.row_cost import row_bytes
from advx_jax.attacks import BEST, AutoAttack
from advx_jax.attacks.passes import Passes, total_passes
from advx_jax.data.decoding import Wanted, decode_encoded
from advx_jax.networks.architecture import Architecture
from advx_jax.networks.classifier import Classifier
from advx_jax.networks.named import architecture_named
from advx_jax.reports.console import table
from benchmarks.scale_costs import Job, Measured, seconds_an_image, seconds_on
from benchmarks.side_by_side import seconds, write

DEVICES = (1, 8, 64)
# Of a photograph of ImageNet, rows first, and of how many repetitions a time is the best.
_PHOTOGRAPH, _REPEATS = (375, 500), 3

_MODEL = flags.DEFINE_string("network", "ResNet-50-imagenet", "Name of an architecture.")
_N_IMAGES = flags.DEFINE_integer("n_images", 50_000, "Images of the test set.", lower_bound=1)
_ROWS = flags.DEFINE_integer("rows", 8, "Images of the pass that is timed.", lower_bound=1)
_ACCURACY = flags.DEFINE_float("accuracy", 0.63, "Share of images classified correctly, which are attacked.")
_STANDING = flags.DEFINE_float("standing", 0.35, "Share that stands against AutoAttack's first attack.")
_GRADIENTS = flags.DEFINE_float(
    "gradients_per_second", None, "Of a device, of the whole network; as measured if not given.", lower_bound=1e-3
)


@command()
def main(arguments: list[str]) -> None:
    """Time, count, and print the table."""
    no_arguments(arguments)
    keep_compiled_code()
    architecture = architecture_named(_MODEL.value)
    classes, shape = architecture.n_classes, architecture.image_shape
    measured = _measure(architecture)
    ball = AutoAttack(eps=4 / 255, norm="Linf")
    first, *rest = (total_passes(member, classes, shape) for member in ball.members(classes))
    jobs = [
        _job("accuracy", [(1.0, Passes(1, 0))]),
        _job("both areas by `best`, L2", [(2 * _ACCURACY.value, total_passes(BEST, classes, shape))]),
        _job("AutoAttack, L∞", [(_ACCURACY.value, first), *((_STANDING.value, passes) for passes in rest)]),
    ]
    rows = [_row(job, measured) for job in jobs]
    print(
        f"forward {1000 * measured.forward:.1f} ms, gradient {1000 * measured.gradient:.1f} ms an image, decoding "
        f"{1000 * measured.decoding:.1f} ms, compiling {measured.compiling:.1f} s, "
        f"{measured.row_bytes / 2**20:.0f} MiB an image"
    )
    print(
        table(
            ("work", "gradients an image", *(f"{n} device{'s'[: n > 1]}" for n in DEVICES), "devices fed by a core"),
            rows,
        )
    )
    names = ("network", "n_images", "accuracy", "standing", "gradients_per_second", "rows")
    settings = {name: flags.FLAGS[name].value for name in names}
    write("scale", settings, {"measured": measured._asdict(), "jobs": [job._asdict() for job in jobs]})


def _job(name: str, shares: list[tuple[float, Passes]]) -> Job:
    forward = sum(share * passes.forward for share, passes in shares)
    return Job(name, forward, sum(share * passes.backward for share, passes in shares))


def _row(job: Job, measured: Measured) -> tuple[str, ...]:
    speed = measured.gradient * _GRADIENTS.value if _GRADIENTS.value else 1.0
    each = seconds_an_image(job, measured, speed)
    times = (_in_words(seconds_on(n, _N_IMAGES.value, each)) for n in DEVICES)
    passes = f"{job.backward:.0f} + {job.forward - job.backward:.0f} forward"
    return job.name, passes, *times, f"{each / measured.decoding:.1f}"


def _in_words(time_taken: float) -> str:
    if time_taken < 2 * 60:
        return f"{time_taken:.0f} s"
    return f"{time_taken / 60:.0f} min" if time_taken < 2 * 3600 else f"{time_taken / 3600:.1f} h"


def _measure(architecture: Architecture) -> Measured:
    shape = architecture.image_shape
    images = jax.random.uniform(jax.random.key(0), (_ROWS.value, *shape))
    model = Classifier(jax.jit(architecture.module().init)(jax.random.key(1), images), architecture)
    forward = jax.jit(lambda model, x: model(x)).lower(model, images).compile()
    began = time.perf_counter()
    gradient = jax.jit(jax.grad(lambda model, x: model(x)[:, 0].sum(), 1)).lower(model, images).compile()
    compiling = time.perf_counter() - began
    return Measured(
        forward=_best(lambda: jax.block_until_ready(forward(model, images))) / _ROWS.value,
        gradient=_best(lambda: jax.block_until_ready(gradient(model, images))) / _ROWS.value,
        decoding=_decoding(shape),
        compiling=compiling,
        row_bytes=row_bytes(model, images, BEST),
    )


def _decoding(shape: tuple[int, ...]) -> float:
    """Of something smooth, as large as a photograph."""
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))
    file = io.BytesIO()
    smooth.resize(_PHOTOGRAPH[::-1], Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
    wanted = Wanted.of(shape)
    return _best(lambda: decode_encoded([file.getvalue()], wanted))


def _best(work: Callable[[], object]) -> float:
    work()
    return min(seconds(work) for _ in range(_REPEATS))


if __name__ == "__main__":
    main()
