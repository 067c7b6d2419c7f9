"""What a person says of the classes of own images: names or numbers, by folder or in a table."""

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from advx_jax.cache import at_home
from advx_jax.errors import UserError

_COLUMNS = ("file", "label")
# In a message.
_MOST_NAMES = 10


class LabelTable(NamedTuple):
    """Rows of a table with the columns `file` and `label`.

    Attributes:
        source: the table's own file.
        rows: a file's name as it is written, and the index of its class.
    """

    source: Path
    rows: list[tuple[str, int]]

    def paths(self) -> list[Path]:
        """Where the files lie: names are relative to the table's folder, or else to the working folder."""
        return [self._path(name) for name, _ in self.rows]

    def labels(self, paths: Sequence[Path]) -> list[int]:
        """The classes of files.

        A file is found by its path, or by its bare name if the table gives no folder and no other file has it.

        Raises:
            UserError: a file is not in the table, or it is there twice with two classes.
        """
        by_path = self._by([_absolute(path) for path in self.paths()])
        bare = self._by([name if Path(name).name == name else "" for name, _ in self.rows])
        counts = Counter(path.name for path in paths)
        labels: list[int | None] = []
        for path in paths:
            label = by_path.get(_absolute(path))
            labels.append(bare.get(path.name) if label is None and counts[path.name] == 1 else label)
        missing = [str(path) for path, label in zip(paths, labels, strict=True) if label is None]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise UserError(
                f"expected a row for each image in {self.source}, got none for {', '.join(missing[:3])}{more}"
            )
        return [label for label in labels if label is not None]

    def _path(self, name: str) -> Path:
        beside = self.source.parent / at_home(name)
        return beside if beside.exists() or not Path(name).exists() else Path(name)

    def _by(self, keys: Sequence[str]) -> dict[str, int]:
        labels: dict[str, int] = {}
        for key, (name, label) in zip(keys, self.rows, strict=True):
            if key and labels.setdefault(key, label) != label:
                raise UserError(f"expected one class for {name} in {self.source}, got two")
        return labels


def class_index(text: str, class_names: Sequence[str]) -> int:
    """The class that is called so, in upper or lower case, or that has this number.

    Raises:
        UserError: there is none.
    """
    if text.strip() in class_names:
        return class_names.index(text.strip())
    wanted = text.strip().casefold()
    names = [name.casefold() for name in class_names]
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and int(wanted) < len(names):
        return int(wanted)
    known = ", ".join(class_names[:_MOST_NAMES]) + ", …" * (len(names) > _MOST_NAMES)
    raise UserError(f"expected a class ({known}, or 0 to {len(names) - 1}), got {text!r}")


def read_label_table(source: Path, class_names: Sequence[str]) -> LabelTable:
    """Read a table in CSV with a header: columns `file` and `label` among others, by comma, semicolon or tab.

    Args:
        source: the file, in UTF-8.
        class_names: of all classes; a label is one of them or its number.

    Raises:
        UserError: it cannot be read, lacks a column or a row, or a label is no class; the line is named.
    """
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise UserError(f"cannot read the labels in {source}: {reason}") from error
    header = text.partition("\n")[0].strip()
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
    rows = []
    try:
        columns = [name.strip().casefold() for name in next(reader, [])]
        if not set(_COLUMNS) <= set(columns):
            raise UserError(f"expected the columns {' and '.join(_COLUMNS)} in the first line, got {header!r}")
        places = [columns.index(name) for name in _COLUMNS]
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            name, label = (row[place].strip() if place < len(row) else "" for place in places)
            if not name:
                raise UserError(f"line {reader.line_num}: expected a file, got none")
            try:
                rows.append((name, class_index(label, class_names)))
            except UserError as error:
                raise UserError(f"line {reader.line_num}: {error}") from error
    except (csv.Error, UserError) as error:
        raise UserError(f"{source}: {error}") from error
    if not rows:
        raise UserError(f"{source}: expected a row for each image, got none")
    return LabelTable(source, rows)


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 (pathlib's does not remove `..`)
