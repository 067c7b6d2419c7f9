"""Whether a record of an earlier call is what that call can have written; it may be anybody's file."""

import itertools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from advx_jax.analysis.faithfulness.counterfactual import CounterfactualQuality
from advx_jax.reports.explanation_tree import folder_name

_Check = Callable[[Any], bool]


def is_explanation(class_names: Sequence[str], folder: str, record: Mapping[str, Any]) -> bool:
    """Whether it is an entry of `explanations.json`, see `summary`, of the image in this folder."""
    n_classes = len(class_names)
    targets = record.get("targets", list(range(n_classes)))
    if not (isinstance(targets, list) and targets and all(map(_is_below(n_classes), targets))):
        return False
    if len(set(targets)) < len(targets):
        return False
    fields = {
        "name": _is_text,
        "label": _is_below(n_classes),
        "label_is_given": _is_bool,
        "predicted": _is_below(n_classes),
        "second": _is_below(n_classes),
        **dict.fromkeys(("confidences", "logits"), _each(_is_number_or_null, n_classes)),
        "rms": _each(_is_number_or_null, len(targets)),
        "first_ok": _each(_is_count, len(targets)),
        "reached": _each(_is_bool, len(targets)),
    }
    if not all(name in record and check(record[name]) for name, check in fields.items()):
        return False
    # Made anew, not read from the file: a path in it must not lead out of the folder of results.
    return bool(folder == record.get("folder") == folder_name(record["name"], class_names[record["label"]]))


def is_comparison(methods: Collection[str], record: Mapping[str, Any]) -> bool:
    """Whether an entry of `explanations.json`, see `is_explanation`, has what these methods gave, and nothing else."""
    numbers = _each(_is_number_or_null, n := len(record["rms"]))
    quality, entries = record.get("counterfactual"), record.get("methods")
    if not (isinstance(quality, dict) and set(quality) == set(CounterfactualQuality._fields)):
        return False
    if not all((_each(_is_bool, n) if name == "valid" else numbers)(values) for name, values in quality.items()):
        return False
    if not (isinstance(entries, dict) and set(entries) == set(methods)):
        return False
    return all(
        isinstance(entry, dict)
        and {"pictures", "scale", "sum"} <= set(entry) <= {"pictures", "scale", "sum", "completeness_gap"}
        and _each(_is_text, n)(entry["pictures"])
        and entry["scale"] is not None
        and _is_number_or_null(entry["scale"])
        and entry["scale"] >= 0
        and all(numbers(entry[name]) for name in ("sum", "completeness_gap") if name in entry)
        for entry in entries.values()
    )


def is_distance(distance: object, first_ok: object, crossed: object, finite: object) -> bool:
    """Whether these are the fields of `Distances` of an image; null stands for nothing but what was not found."""
    if not (_is_bool(crossed) and _is_bool(finite) and _is_count(first_ok) and _is_number_or_null(distance)):
        return False
    return not (crossed and finite) if distance is None else bool(distance >= 0)  # type: ignore[operator]  # a number


def is_distance_list(distances: object) -> bool:
    """Whether these are distances that never grow; null stands for one that was not found yet."""
    if not isinstance(distances, list) or not all(map(_is_number_or_null, distances)):
        return False
    known = [math.inf if distance is None else distance for distance in distances]
    return all(0 <= later <= earlier for earlier, later in itertools.pairwise([math.inf, *known]))


def is_prediction(record: Mapping[str, Any], n_classes: int) -> bool:
    """Whether it is a class, or -1 for none, and a loss; null stands for one that is not finite."""
    if list(record) != ["predicted", "loss"] or not _is_number_or_null(record["loss"]):
        return False
    return record["predicted"] == -1 or _is_below(n_classes)(record["predicted"])


def is_scored(
    record: Mapping[str, Any],
    n_classes: int,
    methods: Collection[str],
    metrics: Collection[str],
    judged: Collection[str],
    fields: Collection[str],
) -> bool:
    """Whether it has classes, scores by some of the methods, and judgements of those that are judged among them."""
    names = ("target", "second", "predicted", "methods", "counterfactuals")
    if list(record) != list(names) or not all(_is_below(n_classes)(record[name]) for name in names[:3]):
        return False
    scores, judgements = record["methods"], record["counterfactuals"]
    if not (_is_table(scores, methods, metrics) and _is_table(judgements, judged, fields)):
        return False
    return set(judgements) == set(scores) & set(judged)


def is_index(key: str, n: int) -> bool:
    """Whether a key is the index of one of `n` images as this package writes it: no path, no leading zeros."""
    return re.fullmatch("0|[1-9][0-9]{0,8}", key) is not None and int(key) < n


def _is_table(rows: object, names: Collection[str], columns: Collection[str]) -> bool:
    """Whether it has a number or a truth value, or null, in each column of rows that have these names."""
    return isinstance(rows, dict) and all(
        name in names
        and isinstance(row, dict)
        and set(row) == set(columns)
        and all(_is_bool(value) or _is_number_or_null(value) for value in row.values())
        for name, row in rows.items()
    )


def _each(check: _Check, n: int) -> _Check:
    return lambda values: isinstance(values, list) and len(values) == n and all(map(check, values))


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
