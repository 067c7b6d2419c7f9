"""Compiling fast what runs once and so need not run fast: most of the time of these tests would go into compilation.

Results differ in rounding from those of what people run. Comparisons with reference outputs are therefore compiled as
people's programs are (`as_people_do`, or the fixture `compiled_as_people_do`).
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import compiler

# Without optimisation; most of what remains is LLVM and MLIR called for each loop of elementwise operations.
_WANTED = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}


def _is_known(option: str) -> bool:
    """Whether this jaxlib has the option; later ones do without some."""
    try:
        jax.jit(lambda: 0, compiler_options={option: _WANTED[option]})()
    except jax.errors.JaxRuntimeError:
        return False
    return True


QUICKLY = {option: value for option, value in _WANTED.items() if _is_known(option)}
"""Options of `jax.jit`."""

# Booleans are written in small letters there; an unknown option would end the process.
QUICK_FLAGS = " ".join(f"--{option}={str(value).lower()}" for option, value in QUICKLY.items())
"""The same for $XLA_FLAGS of other processes."""

_options_of_jax = compiler.get_compile_options
_quick = False


def _options(*arguments: Any, env_options_overrides: dict | None = None, **others: Any) -> Any:
    """JAX's options, and ours where a program asks for none of its own."""
    overrides = env_options_overrides or (QUICKLY if _quick else None)
    return _options_of_jax(*arguments, env_options_overrides=overrides, **others)


def compile_quickly() -> None:
    """Whatever this process compiles from now on is compiled fast.

    JAX has no public setting for it: `jax_disable_most_optimizations` leaves the fusion emitters, which take most of
    the time, and $XLA_FLAGS could not be taken back for the comparisons.
    """
    global _quick
    _quick = True
    compiler.get_compile_options = _options


@contextlib.contextmanager
def as_people_do() -> Iterator[None]:
    """Within it programs are compiled as they are outside of these tests."""
    global _quick
    before, _quick = _quick, False
    # A program that was compiled before is not to stand in for the one that is wanted, nor this one for others later.
    jax.clear_caches()
    try:
        yield
    finally:
        jax.clear_caches()
        _quick = before
