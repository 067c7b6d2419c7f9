"""Memory that training keeps: no page of it comes twice, unless the environment or the machine is against it."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")

# Large blocks in a thread of its own, as XLA's are.
PROGRAM = """
import concurrent.futures, re, resource
from pathlib import Path
from advx_jax import _runtime
_runtime.keep_freed_memory()
import numpy as np
import advx_jax.training.kept_memory as module

def faults(n):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n):
        pool.submit(lambda: np.ones(2**26, np.uint8).sum()).result()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(re.search(r"VmRSS:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 2**10

with concurrent.futures.ThreadPoolExecutor(1) as pool:
    faults(2)
    at_first = faults(8)
    free = 1000
    module.free_memory = lambda: free
    kept = module.KeptMemory()
    for free in (900, 500):
        kept.look()
    faults(2)  # JAX's own blocks may lie where the last one was
    with_half, large = faults(8), resident()
    free = 499
    kept.look()
    print(at_first, with_half, faults(8), large - resident(), _runtime.freed_memory_is_kept())
"""


def outcome(**settings):
    """Page faults of eight blocks at first, with half of the memory left, with less; by how many MiB it shrank."""
    names = ("MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
    surroundings = {name: value for name, value in os.environ.items() if name not in (*names, "GLIBC_TUNABLES")}
    command, environment = [sys.executable, "-c", PROGRAM], surroundings | {"JAX_PLATFORMS": "cpu"} | settings
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=240)
    *numbers, is_kept = run.stdout.split()
    assert is_kept == "False"
    return [float(number) for number in numbers]


# A page has 4 KiB or 2 MiB.
MANY = 8 * 2**26 // 2**21


def test_freed_memory_is_kept_as_long_as_half_of_what_was_free_is():
    at_first, with_half, with_less, shrunk = outcome()
    assert at_first < 20
    assert with_half < 20
    assert with_less >= MANY
    assert shrunk > 50


@pytest.mark.parametrize(
    "setting",
    [{"MALLOC_MMAP_THRESHOLD_": "1048576"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1048576"}],
)
def test_what_the_environment_says_of_memory_is_left_alone(setting):
    assert min(outcome(**setting)[:3]) >= MANY
