"""Compiling fast what runs once and so need not run fast: most of the time of these tests would go into compilation.

Results differ in rounding from those of what people run: not for comparisons with reference outputs bit for bit.
"""

import functools

import jax

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

quickly = functools.partial(jax.jit, compiler_options=QUICKLY)
"""`jax.jit` for what runs once."""

# Booleans are written in small letters there; an unknown option would end the process.
QUICK_FLAGS = " ".join(f"--{option}={str(value).lower()}" for option, value in QUICKLY.items())
"""The same for $XLA_FLAGS of other processes."""
