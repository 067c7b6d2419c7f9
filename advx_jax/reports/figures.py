"""Figures as files, and what they have in common."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from advx_jax.files import atomic_write

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#444444")
"""Told apart by colour-blind people too."""

_DASHES = ("-", "--", ":")


def line_style(place: int) -> dict[str, str]:
    """Colour and dashes of one line of many."""
    return {"color": COLOURS[place % len(COLOURS)], "ls": _DASHES[place // len(COLOURS) % len(_DASHES)]}


def draw_grid(axes: Any, axis: str = "both") -> None:
    """Faint lines behind what is drawn."""
    axes.grid(axis=axis, color="#e4e4e4", lw=0.7)
    axes.set_axisbelow(True)


def save_figure(figure: Any, *paths: Path) -> None:
    """Write a figure of matplotlib's whole or not at all, in the formats that the files' endings name."""
    with missing_letters_allowed():
        for path in paths:
            kind = path.suffix.removeprefix(".")
            with atomic_write(path) as temporary:
                # Equal figures are to give equal files.
                figure.savefig(temporary, format=kind, metadata={"Date": None} if kind == "svg" else None)


@contextlib.contextmanager
def missing_letters_allowed() -> Iterator[None]:
    """A letter that the font lacks becomes a box; that is no reason to fail."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield
