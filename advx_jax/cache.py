"""The folder for what is downloaded once and kept."""

import os
import tempfile
from pathlib import Path

from advx_jax.errors import UserError


def cache_dir() -> Path:
    """Give the user's cache folder: `$ADVX_CACHE`, or `~/.cache/advx_jax`; it may not exist yet.

    Raises:
        UserError: there is no home, and somebody else has the folder that would stand in for it.
    """
    chosen = os.environ.get("ADVX_CACHE")
    if chosen:
        return at_home(chosen)
    try:
        return Path.home() / ".cache" / "advx_jax"
    except RuntimeError:
        # A user without a home, as in many containers.
        return _temporary()


def at_home(path: str) -> Path:
    """A path as a person writes it in a variable of the environment: `~` is the home folder."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (raises nothing where there is no home)


def without_home(path: Path) -> str:
    """A path as results name it, which people pass on: not with where its owner's home is."""
    home = at_home("~")
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _temporary() -> Path:
    folder = Path(tempfile.gettempdir()) / f"advx_jax-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    # Compiled code is run from it.
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise UserError(f"expected a home folder or $ADVX_CACHE, got neither, and {folder} belongs to somebody else")
    return folder
