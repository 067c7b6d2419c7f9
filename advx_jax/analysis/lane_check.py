"""Whether this machine's CPU gives several lanes at once the numbers that it gives one alone.

Some releases of jaxlib do not, on some processors: from about the 1,100th convolution of one execution on,
gradients are wrong, and nothing says so. A list of releases would go stale, so each is tried where it runs.
"""

import functools
import hashlib
import importlib.metadata
import json
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from advx_jax._runtime import processor_features
from advx_jax.cache import cache_dir
from advx_jax.files import atomic_write
from advx_jax.networks.convolution import convolve

_ROWS = 4
_WIDTHS = (16, 32, 64)
_DEPTH = 3
# With 18 convolutions a step, forward and back: well over what it takes for the fault to show.
_STEPS = 100
# Part of a verdict's name: to be raised when the test changes, so that older verdicts are not believed.
_TEST = 1


@functools.cache
def lanes_agree(devices: tuple[jax.Device, ...]) -> bool:
    """Whether lanes that compute at the same time give, bit for bit, what each gives alone.

    Tried once for each release of jaxlib, processor, setting of XLA and number of lanes, in about two
    seconds; the verdict is kept in the user's cache.

    Args:
        devices: of the CPU, one for each lane; one device may have several.
    """
    if len(devices) == 1:
        return True
    verdict = cache_dir() / "lanes" / f"{_circumstances(devices)}.json"
    try:
        agree = json.loads(verdict.read_text(encoding="utf-8"))["agree"] is True
    except (OSError, ValueError, KeyError, TypeError):
        agree = _try(devices)
        try:
            with atomic_write(verdict) as path:
                path.write_text(json.dumps({"agree": agree, "jaxlib": _jaxlib(), "lanes": len(devices)}))
        except OSError:
            pass  # A cache that cannot be written costs the next process the test, and nothing else.
    return agree


def what_is_wrong(devices: Sequence[jax.Device]) -> str:
    """Say in one clause what was found where lanes disagree."""
    lanes = f"{len(devices)} lanes at once"
    return f"jaxlib {_jaxlib()} computes wrong numbers on this processor in {lanes} (found by a self-test)"


def _try(devices: Sequence[jax.Device]) -> bool:
    """Let all lanes climb at once, neighbours from different images, and compare with the same lanes alone."""
    # Only two starts, whatever the number of lanes: each alone takes as long as a lane for every core.
    starts = [(_draw(index % 2, (_ROWS, 32, 32, 3)), _kernels(), device) for index, device in enumerate(devices)]
    alone = [_answer(*start) for start in starts[:2]]
    together = threading.Barrier(len(devices))

    def lane(index: int) -> bool:
        together.wait()
        return _answer(*starts[index]) == alone[index % 2]

    with ThreadPoolExecutor(len(devices)) as pool:
        return all(pool.map(lane, range(len(devices))))


def _answer(images: np.ndarray, kernels: list[np.ndarray], device: jax.Device) -> bytes:
    return bytes(jax.device_get(_climb(*jax.device_put((images, kernels), device))).tobytes())


@jax.jit
def _climb(
    images: Float[Array, "batch height width 3"], kernels: list[Float[Array, "3 3 _ _"]]
) -> Float[Array, "batch height width 3"]:
    """Change images step by step along the gradient of a small network, all in one execution."""

    def step(x: Array, _: None) -> tuple[Array, None]:
        gradient = jax.grad(lambda x: jnp.square(_features(x, kernels)).sum())(x)
        return x + 0.01 * gradient / (1e-6 + jnp.sqrt(jnp.square(gradient).mean())), None

    return lax.scan(step, images, length=_STEPS)[0]


def _features(x: Array, kernels: list[Array]) -> Array:
    for index, kernel in enumerate(kernels):
        x = x + convolve(jax.nn.relu(x), kernel) if index % _DEPTH else convolve(x, kernel, 1 if index == 0 else 2)
    return x


def _kernels() -> list[np.ndarray]:
    """The first of each stage changes the width; all but the first of these halve the images."""
    kernels: list[np.ndarray] = []
    inputs = 3
    for width in _WIDTHS:
        for _ in range(_DEPTH):
            kernels.append(_draw(len(kernels), (3, 3, inputs, width)) / np.float32(np.sqrt(9 * inputs)))
            inputs = width
    return kernels


def _draw(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def _circumstances(devices: Sequence[jax.Device]) -> str:
    """A name for all that a verdict depends on."""
    facts = (
        _TEST,
        _jaxlib(),
        processor_features(),
        # How many threads XLA has to compute with.
        os.cpu_count(),
        os.environ.get("XLA_FLAGS", ""),
        [device.id for device in devices],
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _jaxlib() -> str:
    return importlib.metadata.version("jaxlib")
