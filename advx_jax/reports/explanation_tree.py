"""The picture tree of explanations, under the published names (docs/method.md, Explanations), and its JSON record."""

import contextlib
import re
import secrets
import shutil
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer

from advx_jax.errors import UserError
from advx_jax.names import safe_class_name, safe_name
from advx_jax.reports.pictures import difference_map, difference_scale, png_bytes, to_pixels

FORMAT = 1
"""Number of the layout of `explanations.json`: the head, `class_names`, `images` (a `summary` each)."""

RESULTS_FILE = "explanations.json"
INPUT = "_input.png"
_DIFFERENCES = "differences"
_OUR_FILES = re.compile(r"_input\.png|.+_was_(?:\d\.\d{3}|nan)\.png|\d+_.+\.png|\..*")


class ExplainedImage(NamedTuple):
    """One image with its explanations towards classes, its targets.

    Attributes:
        name: index in the data set, or the stem of a person's own file; names its folder.
        label: the real class, or what stands in for it.
        label_is_given: False if `label` is the network's top class, for want of a real one.
        class_names: of all K classes.
        input: the image, values on the [0, 1] scale.
        targets: the classes that it is explained towards; explanations, rms, first_ok and reached are in their order.
        explanations: x + δ towards each target, not clipped.
        confidences: softmax of the network's logits on the unchanged image.
        logits: of the unchanged image.
        rms: RMS of each δ, on the [0, 1] scale.
        first_ok: first step at which RMS ≥ ρ, as the attack reports it.
        reached: whether RMS ≥ ρ held at some step.
        second: the class with the largest logit among those that are not `label`.
    """

    name: str
    label: int
    label_is_given: bool
    class_names: Sequence[str]
    input: Float[np.ndarray, "height width channels"]
    targets: Integer[np.ndarray, " targets"]
    explanations: Float[np.ndarray, "targets height width channels"]
    confidences: Float[np.ndarray, " K"]
    logits: Float[np.ndarray, " K"]
    rms: Float[np.ndarray, " targets"]
    first_ok: Integer[np.ndarray, " targets"]
    reached: Bool[np.ndarray, " targets"]
    second: int


class PictureNames(NamedTuple):
    """File names of the pictures in an image's folder.

    Attributes:
        real: explanation towards the real class, where that is among the targets.
        second: explanation towards the second class, where that is.
        towards: explanations towards the targets, in their order.
        differences: difference maps of the targets, in the image's folder of the difference tree.
    """

    real: str
    second: str
    towards: list[str]
    differences: list[str]


def picture_names(
    class_names: Sequence[str],
    confidences: Sequence[float],
    second: int,
    label: int,
    targets: Sequence[int] | None = None,
) -> PictureNames:
    """The published file names: each tells the confidence in its class on the unchanged image.

    Args:
        class_names: of all classes.
        confidences: in all classes.
        second: the second class.
        label: the real class.
        targets: classes that the image is explained towards; all if None.
    """
    towards = range(len(class_names)) if targets is None else targets
    # Only theirs: there may be thousands of others.
    names = {c: safe_class_name(class_names[c]) for c in (*towards, second)}
    return PictureNames(
        real=f"_real_was_{confidences[label]:.3f}.png",
        second=f"_second_{names[second]}_was_{confidences[second]:.3f}.png",
        towards=[f"{c}_{names[c]}_was_{confidences[c]:.3f}.png" for c in towards],
        differences=[f"{c}_{names[c]}.png" for c in towards],
    )


def folder_name(name: str, class_name: str) -> str:
    """The folder of an image: `{name}-{class}`, both made safe."""
    return f"{safe_name(name)}-{safe_class_name(class_name)}"


def difference_folder(output: Path, folder: str) -> Path:
    """Where an image's difference maps lie: apart, so that its own folder has the published files only."""
    return output / _DIFFERENCES / folder


def has_pictures(output: Path, folder: str) -> bool:
    """Whether an image's explanations and their difference maps are there."""
    return (output / folder).is_dir() and difference_folder(output, folder).is_dir()


def is_folder_name(text: str) -> bool:
    """Whether an image's folder can be called so: then it leads to nowhere else."""
    name, joint, class_name = text.rpartition("-")
    return bool(joint) and folder_name(name, class_name) == text


def forget_pictures(output: Path, folder: str) -> None:
    """Remove an image's explanations and difference maps; a folder that holds anything else is left alone."""
    for place in (difference_folder(output, folder), output / folder):
        if place.is_dir() and not place.is_symlink() and _other_file(place) is None:
            shutil.rmtree(place, ignore_errors=True)


def summary(record: ExplainedImage) -> dict[str, Any]:
    """The image's entry in `explanations.json`: all but the pictures."""
    n_classes = len(record.class_names)
    all_classes = np.array_equal(record.targets, np.arange(n_classes))
    return {
        "name": record.name,
        "folder": folder_name(record.name, record.class_names[record.label]),
        "label": record.label,
        "label_is_given": record.label_is_given,
        "predicted": int(np.argmax(record.logits)),
        "second": record.second,
        "confidences": record.confidences,
        "logits": record.logits,
        # Not where they are all classes: so results stay as they were before there was a choice.
        **({} if all_classes else {"targets": record.targets}),
        "rms": record.rms,
        "first_ok": record.first_ok,
        "reached": record.reached,
    }


def without_stand_ins(records: Iterable[dict[str, Any]], wanted: Container[str]) -> list[dict[str, Any]]:
    """Records without those of images that are there with their real class, too, and had another one before.

    Args:
        records: of images.
        wanted: folders of those that stay in any case.
    """
    kept = list(records)

    def image(record: dict[str, Any]) -> tuple[Any, Any]:
        return record["name"], record.get("input_sha256")

    known = {image(record) for record in kept if record["label_is_given"]}
    return [
        record
        for record in kept
        if record["label_is_given"] or record["folder"] in wanted or image(record) not in known
    ]


def write_explanation(output: Path, record: ExplainedImage) -> Path:
    """Write the pictures of one image, replacing those of an earlier run.

    `{name}-{class}/` in `output` gets `_input.png`, `_real_was_….png`, `_second_{class}_was_….png`
    and `{c}_{class}_was_….png` for every target, and nothing else;
    `_real_…` and `_second_…` only if they are targets. The difference maps go to
    `differences/{name}-{class}/{c}_{class}.png`. Each folder appears whole or not at all, that of
    the explanations last: where it is, the image is done.

    Returns:
        The folder of the explanations.

    Raises:
        UserError: the record's shapes do not fit each other, or a folder of that name holds other files.
    """
    _check_shapes(record)
    folder = folder_name(record.name, record.class_names[record.label])
    targets = record.targets.tolist()
    names = picture_names(record.class_names, record.confidences.tolist(), record.second, record.label, targets)
    perturbations = record.explanations - record.input
    scale = difference_scale(perturbations)
    with folder_written_whole(difference_folder(output, folder)) as temporary:
        for name, perturbation in zip(names.differences, perturbations, strict=True):
            (temporary / name).write_bytes(png_bytes(difference_map(perturbation, scale)))
    with folder_written_whole(output / folder) as temporary:
        (temporary / INPUT).write_bytes(png_bytes(to_pixels(record.input)))
        pictures = [png_bytes(pixels) for pixels in to_pixels(record.explanations)]
        for name, picture in zip(names.towards, pictures, strict=True):
            (temporary / name).write_bytes(picture)
        for name, c in ((names.real, record.label), (names.second, record.second)):
            if c in targets:
                (temporary / name).write_bytes(pictures[targets.index(c)])
    return output / folder


def _check_shapes(record: ExplainedImage) -> None:
    n_classes = len(record.class_names)
    n_targets = len(record.targets)
    expected: dict[str, tuple[int, ...]] = {"explanations": (n_targets, *record.input.shape)}
    expected |= dict.fromkeys(("confidences", "logits"), (n_classes,))
    expected |= dict.fromkeys(("rms", "first_ok", "reached"), (n_targets,))
    for field, shape in expected.items():
        if (found := getattr(record, field).shape) != shape:
            raise UserError(f"expected {field} of shape {shape} for image {record.name!r}, got {found}")
    for field in ("label", "second"):
        if not 0 <= (number := getattr(record, field)) < n_classes:
            raise UserError(f"expected a {field} in 0..{n_classes - 1} for image {record.name!r}, got {number}")
    targets = record.targets.tolist()
    if len(set(targets)) < n_targets or not n_targets > 0 or not 0 <= min(targets) <= max(targets) < n_classes:
        raise UserError(f"expected different targets in 0..{n_classes - 1} for image {record.name!r}, got {targets}")


@contextlib.contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside `folder` that takes its place when the block ends without an error.

    Raises:
        UserError: at its place are other files than pictures of an earlier run.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(4)
    temporary = folder.with_name(f".{folder.name}-{token}.tmp")
    replaced = folder.with_name(f".{folder.name}-{token}.old")
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            _refuse_other_files(folder)
            folder.rename(replaced)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def _refuse_other_files(folder: Path) -> None:
    """Keep an output folder that was chosen by mistake from losing what is not ours."""
    if not folder.is_dir():
        raise UserError(f"expected a folder or nothing at {folder}, got a file")
    if other := _other_file(folder):
        raise UserError(f"expected only pictures of an earlier run in {folder}, got {other!r}; nothing was replaced")


def _other_file(folder: Path) -> str | None:
    """What lies in a folder beside pictures of ours, the first that there is."""
    for entry in sorted(folder.iterdir()):
        if not (_OUR_FILES.fullmatch(entry.name) and entry.is_file()):
            return entry.name
    return None
