"""Side-by-side timings of the JAX code and the PyTorch twin: one run, one machine, the same work."""

import sys
from pathlib import Path

# The twin is a part of the tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
