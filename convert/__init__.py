"""PyTorch's `.pt` files to Flax networks and back: the only place that knows PyTorch's names, layouts and files.

No PyTorch is needed, and nothing in a file is ever executed. `python -m advx_jax.convert --help`
tells how to use it as a command.
"""

from .pytorch import read_pt, write_pt

__all__ = ["read_pt", "write_pt"]
