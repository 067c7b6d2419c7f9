"""Whether the results of an earlier call are what that call can have written; they may be anybody's file.

Every check raises a `UserError` that says in a few words what is wrong, for `earlier_results`.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from advx_jax.analysis.robustness_area import Distances
from advx_jax.errors import UserError
from advx_jax.reports.explanation_tree import folder_name
from advx_jax.wording import shown

_Check = Callable[[Any], bool]


def check_explanations(earlier: Mapping[str, Any], class_names: tuple[str, ...]) -> None:
    """Entries of `explanations.json`: see `summary`."""
    n_classes = len(class_names)

    def each(check: _Check) -> _Check:
        return lambda values: isinstance(values, list) and len(values) == n_classes and all(map(check, values))

    fields = {
        "name": _is_text,
        "label": _is_below(n_classes),
        "label_is_given": _is_bool,
        "predicted": _is_below(n_classes),
        "second": _is_below(n_classes),
        **dict.fromkeys(("confidences", "logits", "rms"), each(_is_number_or_null)),
        "first_ok": each(_is_count),
        "reached": each(_is_bool),
    }
    entries = earlier.get("images")
    if not isinstance(entries, list):
        raise UserError(f"expected a list of images, got {shown(entries)}")
    for number, entry in enumerate(entries):
        _check_fields(f"image number {number}", entry, fields)
        folder = folder_name(entry["name"], class_names[entry["label"]])
        if entry.get("folder") != folder:
            raise UserError(f"image number {number}: expected the folder {folder}, got {shown(entry.get('folder'))}")


def check_measured(earlier: Mapping[str, Any], kinds: Collection[str], n: int) -> None:
    """Distances of `distances.json`.

    Args:
        earlier: content of the file.
        kinds: of distances.
        n: how many images the data have.
    """
    measured = earlier.get("measured")
    if not isinstance(measured, dict) or measured.keys() != set(kinds):
        raise UserError(f"expected distances by kind ({', '.join(kinds)}), got others")
    for kind in kinds:
        for key, fields in _by_index(measured[kind], n).items():
            is_list = isinstance(fields, list) and len(fields) == len(Distances._fields)
            if not is_list or not _is_distance(*fields):
                raise UserError(f"expected {', '.join(Distances._fields)} of image {key}, got something else")


def _is_distance(distance: object, first_ok: object, crossed: object, finite: object) -> bool:
    """Whether these are the fields of `Distances` of an image; null stands for nothing but what was not found."""
    if not (_is_bool(crossed) and _is_bool(finite) and _is_count(first_ok) and _is_number_or_null(distance)):
        return False
    return not (crossed and finite) if distance is None else bool(distance >= 0)  # type: ignore[operator]  # a number


def is_index(key: str, n: int) -> bool:
    """Whether a key is the index of one of `n` images as this package writes it: no path, no leading zeros."""
    return re.fullmatch("0|[1-9][0-9]{0,8}", key) is not None and int(key) < n


def _by_index(images: object, n: int) -> dict[str, Any]:
    if not isinstance(images, dict):
        raise UserError(f"expected images by index, got {shown(images)}")
    for key in images:
        if not is_index(key, n):
            raise UserError(f"expected images by index, from 0 to {n - 1}, got {shown(key)}")
    return images


def _check_fields(what: str, record: object, fields: Mapping[str, _Check]) -> None:
    if not isinstance(record, dict):
        raise UserError(f"{what}: expected fields, got {shown(record)}")
    for name, check in fields.items():
        if name not in record or not check(record[name]):
            raise UserError(f"{what}: expected another {name}, got {shown(record.get(name))}")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_below(limit: int) -> _Check:
    return lambda value: type(value) is int and 0 <= value < limit


def _is_number_or_null(value: object) -> bool:
    # Infinite ones are written as null; 1e999 is one all the same.
    return value is None or (isinstance(value, int | float) and not _is_bool(value) and abs(value) < math.inf)
