"""Settings of JAX, and of the memory under it, for the whole process."""

import ctypes
import hashlib
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

from advx_jax.cache import cache_dir

# The last two change no numbers, but refuse what other packages do.
_CHANGES_NUMBERS = (
    *("JAX_ENABLE_X64", "JAX_DEFAULT_DTYPE_BITS", "JAX_DEFAULT_PRNG_IMPL", "JAX_THREEFRY_PARTITIONABLE"),
    *("JAX_RANDOM_SEED_OFFSET", "JAX_NUMPY_DTYPE_PROMOTION", "JAX_NUMPY_RANK_PROMOTION"),
)
_FUSION_FLAG = "--xla_cpu_experimental_ynn_fusion_type="
# Releases of jaxlib, by their first two numbers, that are better off without it. 0.10 and 0.11 silently miscompile
# reductions with it (jax issue 39103). 0.12 is right, but slower: a robust training step takes 33.3 ms of processor
# time an image with it and 30.7 without on an AVX-512 core, 25.2 and 19.1 ms on an AVX2 core; attack steps are equal.
# 0.9 trains as fast with its default, and attacks 10% faster. An unknown flag ends the process, so later releases keep
# theirs until they are measured.
_WITHOUT_FUSION = {(0, 10), (0, 11), (0, 12)}

# Settings of glibc's malloc by their numbers in malloc.h. To keep: one arena for all threads, from which even the
# largest block comes, and no return to the system. Otherwise what glibc arrives at by itself where blocks are large.
_ARENA_MAX, _MMAP_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -8, -4, -3, -1
_KEEPING = {_ARENA_MAX: 1, _MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
_RETURNING = {_MMAP_MAX: 2**16, _MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26}
# What the environment calls them.
_SAME_IN_ENVIRONMENT = ("arena_max", "mmap_max", "mmap_threshold", "trim_threshold")


class _FreedMemory:
    """What glibc does with memory that was freed, for the whole process."""

    is_kept = False


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, instead of giving it back to the system; before any thread computes.

    On a CPU, XLA takes the memory for maps from it at every call of a compiled program and frees it at the end. Large
    blocks would go back to the system each time, and come again page by page, filled with zeros: a tenth of a training
    step. What is kept has gaps, so that a process grows to twice its size or more. Only glibc can be told so; what the
    environment says of the same settings is left alone.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    for name in _SAME_IN_ENVIRONMENT:
        if f"glibc.malloc.{name}=" in tunables or {f"MALLOC_{name.upper()}", f"MALLOC_{name.upper()}_"} & {*os.environ}:
            return
    if platform.libc_ver()[0] == "glibc":
        _tell_malloc(_KEEPING)
        _FreedMemory.is_kept = True


def freed_memory_is_kept() -> bool:
    """Whether `keep_freed_memory` holds."""
    return _FreedMemory.is_kept


def return_freed_memory() -> None:
    """Let the system have what is kept, now and from now on."""
    if _FreedMemory.is_kept:
        _tell_malloc(_RETURNING)
        ctypes.CDLL(None).malloc_trim(0)
        _FreedMemory.is_kept = False


def _tell_malloc(settings: dict[int, int]) -> None:
    mallopt = ctypes.CDLL(None).mallopt
    for setting, value in settings.items():
        mallopt(setting, value)


def switch_off_fusion() -> None:
    """Switch off XLA's YNNPACK fusion on the CPU where a release of jaxlib is wrong or slower with it.

    The flag is read when the CPU backend starts, so it comes too late for a process that has already used
    JAX; a value set by the user is left alone.
    """
    version = tuple(int(part) for part in importlib.metadata.version("jaxlib").split(".")[:2])
    present = os.environ.get("XLA_FLAGS", "")
    if version in _WITHOUT_FUSION and _FUSION_FLAG not in present:
        os.environ["XLA_FLAGS"] = f"{present} {_FUSION_FLAG}".strip()


def quieten_loading_of_compiled_code() -> None:
    """Keep XLA from warning of every piece of compiled code that it loads from the cache on a CPU.

    It compares the processor's features with those it compiled for and counts its own tuning hints
    (`prefer-no-gather`) as missing ones. What really goes wrong still raises in Python.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def compute_as_documented() -> None:
    """Keep settings of the environment from changing what the commands compute; JAX must not be imported yet.

    In double precision or with another generator of random numbers, results would be others, and comparable with
    none that are published.
    """
    for name in _CHANGES_NUMBERS:
        os.environ.pop(name, None)


def keep_compiled_code() -> None:
    """Let JAX keep compiled code in the user's cache, so that a second call starts at once."""
    # JAX must not be imported before the other settings are made.
    import jax

    # Code compiled for one processor may not run on another that shares the home directory.
    folder = cache_dir() / "compiled" / hashlib.sha256(processor_features().encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.stderr.write(f"compiled code is not kept for the next call: {error}; $ADVX_CACHE names another folder\n")
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def processor_features() -> str:
    """What tells this machine's kind of processor from others, as the system puts it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else [platform.processor()]
    return next((line for line in lines if line.startswith(("flags", "Features"))), lines[0])
