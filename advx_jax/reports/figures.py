"""Figures as files."""

import warnings
from pathlib import Path
from typing import Any

from advx_jax.files import atomic_write

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#444444")
"""Told apart by colour-blind people too."""


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure of matplotlib's as a PNG, whole or not at all."""
    with atomic_write(path) as temporary, warnings.catch_warnings():
        # A letter in the title that the font lacks becomes a box; that is no reason to fail.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(temporary, format="png")
