"""What the explaining command says at its end: what was made, where to look, and what to know about it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advx_jax.reports.console import length, table


def closing_words(output: Path, results: Mapping[str, Any], beside: Mapping[str, Any] | None, folders: set[str]) -> str:
    """A table of the images, what was made of them and where it is, and a note for each network that fell short of ρ.

    Args:
        output: the folder with the pictures.
        results: content of its `explanations.json`.
        beside: that of a second network, if there is one.
        folders: of the images that were asked for.
    """
    shown = [results] if beside is None else [results, beside]
    entries = [_entries(one, folders) for one in shown]
    names = [one["settings"]["model"] for one in shown]
    n_images, n_classes = len(entries[0]), len(results["class_names"])
    n_targets = max((len(entry["rms"]) for entry in entries[0]), default=n_classes)
    towards = f"each of {n_classes} classes" if n_targets == n_classes else f"{n_targets} of {n_classes} classes each"
    made = f"{n_images} {'image' if n_images == 1 else 'images'} explained towards {towards}"
    by = f"{made} by {names[0]}" + "".join(f", beside {name}" for name in names[1:])
    look = f"look at them: {output / 'index.html'} (numbers: {output / 'explanations.json'})"
    notes = [shortfall(one, folders) for one in shown]
    return "\n".join([_table(results["class_names"], names, entries), by, look, *(f"note: {n}" for n in notes if n)])


def shortfall(results: Mapping[str, Any], folders: set[str]) -> str:
    """How many explanations ended before ρ, and what that means; empty if none did.

    Args:
        results: content of `explanations.json`.
        folders: of the images to count.
    """
    entries, settings = _entries(results, folders), results["settings"]
    short = [
        math.nan if rms is None else float(rms)
        for entry in entries
        for rms, reached in zip(entry["rms"], entry["reached"], strict=True)
        if not reached
    ]
    if not short:
        return ""
    total = sum(len(entry["rms"]) for entry in entries)
    finite = [rms for rms in short if math.isfinite(rms)]
    if not finite:
        return (
            f"{len(short)} of {total} explanations by {settings['model']} have no finite size: its logits or gradients "
            "are infinite or NaN for these images"
        )
    ends = f"at {min(finite):.4f} to {max(finite):.4f}"
    if min(finite) > settings["eps"]:
        return (
            f"{len(short)} of {total} explanations by {settings['model']} end beyond RMS {length(settings['eps'])}, "
            f"{ends} (marked in the gallery): the path had too few --steps to come back"
        )
    further = "more --steps" if settings["direction"] == "scale_free" else "--direction=scale_free or more --steps"
    return (
        f"{len(short)} of {total} explanations by {settings['model']} end before RMS {length(settings['eps'])}, {ends} "
        "(marked in the gallery). That is usual for networks that were not trained to be robust, and no fault of this "
        f"run; {further} may get nearer"
    )


def _entries(results: Mapping[str, Any], folders: set[str]) -> list[Mapping[str, Any]]:
    return [entry for entry in results["images"] if entry["folder"] in folders]


def _table(class_names: Sequence[str], names: Sequence[str], entries: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    answers = [{entry["folder"]: _answer(class_names, entry) for entry in of_one} for of_one in entries]
    rows = [
        (
            entry["name"],
            class_names[entry["label"]] if entry["label_is_given"] else "?",
            *(of_one.get(entry["folder"], "") for of_one in answers),
        )
        for entry in entries[0]
    ]
    return table(("image", "class", *(f"{name} says" for name in names)), rows)


def _answer(class_names: Sequence[str], entry: Mapping[str, Any]) -> str:
    confidence = entry["confidences"][entry["predicted"]]
    return f"{class_names[entry['predicted']]} {math.nan if confidence is None else confidence:.3f}"
