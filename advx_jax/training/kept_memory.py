"""How long a training may keep the memory that it frees, which makes its steps faster and the process larger."""

import jax

from advx_jax._runtime import freed_memory_is_kept, return_freed_memory
from advx_jax.analysis.memory import free_memory


class KeptMemory:
    """Keeps it for as long as half of what was free at the start still is."""

    def __init__(self) -> None:
        """Ask how much is free; on accelerators the host has nothing to keep."""
        self._least = free_memory() / 2
        if jax.default_backend() != "cpu":
            return_freed_memory()

    def look(self) -> None:
        """Give it back if little is left."""
        if freed_memory_is_kept() and free_memory() < self._least:
            return_freed_memory()
