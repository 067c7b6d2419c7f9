"""Numbers and tables of text for the terminal."""

from collections.abc import Sequence

from advx_jax.messages import one_line


def length(value: float) -> str:
    """A length on the [0,1] scale as people write it: `8/255` where it is that exactly, else a short decimal."""
    levels = f"{value * 255:g}"
    return f"{levels}/255" if float(f"{value:g}") != value and float(levels) / 255 == value else f"{value:g}"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out rows in aligned columns: numbers to the right, everything else to the left.

    Args:
        header: names of the columns.
        rows: cells, as many a row as there are columns; format floats before. What a terminal would act on is escaped.

    Returns:
        The lines, without a final line break.
    """
    cells = [[one_line(str(cell)) for cell in row] for row in (header, *rows)]
    columns = list(zip(*cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(map(_is_number, column[1:])) for column in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    )


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "").removesuffix("%"))
    except ValueError:
        return text in {"", "-", "–"}
    return True
