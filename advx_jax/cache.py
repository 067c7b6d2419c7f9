"""The folder for what is downloaded once and kept."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Give the user's cache folder: `$ADVX_CACHE`, or `~/.cache/advx_jax`; it may not exist yet."""
    chosen = os.environ.get("ADVX_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "advx_jax"
