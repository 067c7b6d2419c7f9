"""Where files of networks that are asked for by name may lie."""

import importlib.resources
import os
from pathlib import Path

from advx_jax.cache import at_home, cache_dir


def network_folders() -> list[Path]:
    """In the order in which they are looked into: `./prebuilt`, the package's, `$ADVX_PREBUILT`, the user's cache."""
    folders = [Path("prebuilt"), shipped_folder()]
    if os.environ.get("ADVX_PREBUILT"):
        folders.append(at_home(os.environ["ADVX_PREBUILT"]))
    return [*folders, cache_dir()]


def shipped_folder() -> Path:
    """What the package brings."""
    return Path(str(importlib.resources.files("advx_jax.prebuilt")))
