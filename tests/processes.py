"""What other processes that train a tiny network find around them."""

import os
from pathlib import Path


def quick_environment(cache: Path) -> dict[str, str]:
    """This process's environment, with a CPU, a cache of their own, and code that is compiled fast.

    What is compiled runs slower and computes the same to within rounding; what is compiled once is there for the
    others.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "ADVX_CACHE": str(cache), "XLA_FLAGS": flags.strip()}
