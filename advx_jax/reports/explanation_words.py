"""What the explaining command says at its end: what was made, where to look, and what to know about it."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advx_jax.analysis.comparison import ADVERSARIAL
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
    compared = f", compared with {', '.join(others)}" if (others := _others(results)) else ""
    by = f"{made} by {names[0]}" + "".join(f", beside {name}" for name in names[1:]) + compared
    look = f"look at them: {output / 'index.html'} (numbers: {output / 'explanations.json'})"
    complete = [line for one in shown for line in _completeness(one, folders)]
    notes = [shortfall(one, folders) for one in shown]
    says = _table(results["class_names"], names, entries)
    return "\n".join([says, by, look, *complete, *(f"note: {n}" for n in notes if n)])


def bound(settings: Mapping[str, Any]) -> str:
    """The size that explanations are to have, by their settings."""
    measure = f"{settings['norm']} norm".replace("inf", "∞") if "norm" in settings else "RMS"
    return f"{measure} {length(settings['eps'])}"


def cost_in_words(model: str, n_images: int, n_targets: int, passes: Mapping[str, int]) -> str:
    """What is about to be computed, in passes through the network.

    Args:
        model: what it is called.
        n_images: to be explained.
        n_targets: classes for each.
        passes: for an image and a class, by what makes them; a gradient counts as three.
    """
    each, parts = sum(passes.values()), ", ".join(f"{name} {cost:,}" for name, cost in passes.items())
    images, classes = _counted(n_images, "image"), _counted(n_targets, "class", "es")
    return (
        f"cost: {images} × {classes} × {each:,} passes ({parts}; a gradient counts as 3) = "
        f"{n_images * n_targets * each:,} passes through {model}"
    )


def _completeness(results: Mapping[str, Any], folders: set[str]) -> list[str]:
    """For each method that promises to add up, how far it is from that."""
    gaps: dict[str, list[float]] = {}
    for entry in _entries(results, folders):
        for name, found in entry.get("methods", {}).items():
            gaps.setdefault(name, []).extend(gap for gap in found.get("completeness_gap", ()) if gap is not None)
    return [
        f"{name} adds up to the change of the logit within {statistics.median(found):.2g} of it in the median, "
        f"{max(found):.2g} at most ({results['settings']['model']})"
        for name, found in gaps.items()
        if found
    ]


def _others(results: Mapping[str, Any]) -> list[str]:
    """The methods beside the adversarial explanations."""
    return [name for name in results["settings"].get("methods", ()) if name != ADVERSARIAL]


def _counted(n: int, name: str, plural: str = "s") -> str:
    return f"{n:,} {name}{'' if n == 1 else plural}"


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
    made = f"{len(short)} of {total} explanations by {settings['model']}"
    finite = [rms for rms in short if math.isfinite(rms)]
    if not finite:
        return f"{made} have no finite size: its logits or gradients are infinite or NaN for these images"
    if "norm" in settings:
        return (
            f"{made} end short of the size {bound(settings)} (marked in the gallery): their paths turn about, or their "
            "images have no room for it"
        )
    ends = f"at {min(finite):.4f} to {max(finite):.4f}"
    if min(finite) > settings["eps"]:
        return (
            f"{made} end beyond RMS {length(settings['eps'])}, "
            f"{ends} (marked in the gallery): the path had too few --steps to come back"
        )
    further = "more --steps" if settings["direction"] == "scale_free" else "--direction=scale_free or more --steps"
    return (
        f"{made} end before RMS {length(settings['eps'])}, {ends} "
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
