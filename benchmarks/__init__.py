"""Side-by-side timings of the JAX code and the PyTorch twin: one run, one machine, the same work."""

import sys
from pathlib import Path

from advx_jax._runtime import quieten_loading_of_compiled_code

quieten_loading_of_compiled_code()
# The twin is a part of the tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
