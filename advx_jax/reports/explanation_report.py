"""Explanations of many images as files: pictures, gallery, JSON; kept as they come."""

import contextlib
import dataclasses
import functools
import hashlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from advx_jax.analysis.accuracy import predict
from advx_jax.analysis.explanations import Explanation, explain, second_class
from advx_jax.analysis.soundness import check_classes
from advx_jax.attacks import AttackSettings
from advx_jax.data.image_set import CIFAR10_CLASSES, ImageSet, unit_images
from advx_jax.data.own_files import natural_order
from advx_jax.data.own_images import OwnImage
from advx_jax.errors import UserError
from advx_jax.names import safe_name, unique_names
from advx_jax.networks.classifier import Classifier
from advx_jax.networks.registry import ResolvedNetwork
from advx_jax.reports.earlier_checks import check_explanations
from advx_jax.reports.explanation_tree import (
    FORMAT,
    ExplainedImage,
    difference_folder,
    folder_name,
    summary,
    write_explanation,
)
from advx_jax.reports.explanation_words import closing_words, shortfall
from advx_jax.reports.gallery import Beside, write_gallery
from advx_jax.reports.kept_work import attack_record, earlier_results
from advx_jax.reports.results_json import head, read_json, write_json
from advx_jax.runs.progress import progress
from advx_jax.wording import one_line

RESULTS_FILE = "explanations.json"
BESIDE_FOLDER = "beside"
"""Where explanations by second networks lie; no image's folder has such a name, without `-`."""
# Often enough to lose little, seldom enough that the list of ten thousand images costs nothing.
_SECONDS_BETWEEN_WRITES = 5.0


class NamedImage(NamedTuple):
    """An image to be explained.

    Attributes:
        name: index in the data set, or the stem of a person's own file.
        pixels: 0 to 255.
        label: the real class, or the network's top class where nobody says which is the real one.
        label_is_given: whether `label` is the real class.
    """

    name: str
    pixels: UInt8[np.ndarray, "32 32 3"]
    label: int
    label_is_given: bool

    def sha256(self) -> str:
        """Of the pixels."""
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()


class ImagesToExplain(NamedTuple):
    """Images, in words where they come from, and what their classes are called."""

    images: list[NamedImage]
    source: str
    class_names: tuple[str, ...]


def given_images(data: ImageSet, indices: Sequence[int]) -> ImagesToExplain:
    """Images of a data set by their indices, which must be there."""
    images = [NamedImage(str(place), data.images[place], int(data.labels[place]), True) for place in indices]
    return ImagesToExplain(images, data.source, data.class_names)


def own_images(classifier: Classifier, own: Sequence[OwnImage]) -> ImagesToExplain:
    """A person's own images; where nobody says what an image is, the network's top class stands in for the real one.

    Classes have CIFAR-10's names if they are as many, or if a person gave labels by these names.
    """
    n_classes = classifier.architecture.n_classes
    named = n_classes == len(CIFAR10_CLASSES) or any(image.label is not None for image in own)
    class_names = CIFAR10_CLASSES if named else tuple(f"class_{number}" for number in range(n_classes))
    check_classes(classifier, class_names)
    pixels = np.stack([image.pixels for image in own])
    tops = predict(classifier, unit_images(pixels), np.zeros(len(own), np.int32)).classes
    names = unique_names([one_line(image.path.stem) for image in own])
    images = [
        # Where there is no top class the picture tree needs one all the same; the record shows what the network says.
        NamedImage(
            name, image.pixels, max(int(top), 0) if image.label is None else image.label, image.label is not None
        )
        for name, image, top in zip(names, own, tops, strict=True)
    ]
    return ImagesToExplain(images, "own image files", class_names)


def report_explanations(
    network: ResolvedNetwork,
    wanted: ImagesToExplain,
    settings: AttackSettings,
    output: Path,
    overwrite: bool,
    strict: bool,
    beside: ResolvedNetwork | None = None,
) -> str:
    """Explain images and write everything a person or a program may want to see of it.

    Images that an earlier call explained with the same settings are kept as they are; each
    finished picture is on disk at once, and an interrupted call loses no image that it finished.

    Args:
        network: the network.
        wanted: images to explain.
        settings: of the attack.
        output: folder for pictures, gallery and JSON.
        overwrite: replace what other settings left there.
        strict: an explanation that misses ρ is an error.
        beside: a second network; its explanations of the same images go into a folder in `output`
            and are shown under those of the first.

    Returns:
        A text that says what came out.

    Raises:
        UserError: a network does not have the images' classes; `output` holds explanations of other settings
            or images and must not be overwritten; or `strict`, and an explanation did not reach ρ.
    """
    for resolved in (network, *([] if beside is None else [beside])):
        check_classes(resolved.classifier, wanted.class_names)
    results = _explain_into(output, network, wanted, settings, overwrite)
    other = None
    if beside is not None:
        folder = output / BESIDE_FOLDER / safe_name(beside.provenance.name)
        other = Beside(folder, _explain_into(folder, beside, wanted, settings, overwrite))
        write_gallery(*other)
    write_gallery(output, results, other)
    folders = {_folder(image, wanted.class_names) for image in wanted.images}
    # The second network is shown for comparison: it may miss ρ even where the first must not.
    if strict and (message := shortfall(results, folders)):
        raise UserError(message)
    return closing_words(output, results, None if other is None else other.results, folders)


def _explain_into(
    output: Path, network: ResolvedNetwork, wanted: ImagesToExplain, settings: AttackSettings, overwrite: bool
) -> dict[str, Any]:
    """Explain what is missing in `output`; returns what its results file holds then."""
    results = head("explain", FORMAT, attack_record(network, dataclasses.asdict(settings)))
    results |= {"data": wanted.source, "class_names": wanted.class_names, "images": []}
    path = output / RESULTS_FILE
    names = wanted.class_names
    check = functools.partial(check_explanations, class_names=names)
    earlier = earlier_results(path, results, overwrite, check)
    if earlier is not None:
        results["images"] = earlier["images"]
    elif path.exists():
        _remove_pictures(output, path)
    todo = [image for image in wanted.images if not _is_done(output, results["images"], image, names, overwrite)]

    images = unit_images(np.stack([image.pixels for image in todo])) if todo else np.zeros((0, 32, 32, 3), "f4")
    entries = {entry["folder"]: entry for entry in results["images"]}
    last_write = time.monotonic()
    try:
        with progress(len(todo), "image", "explain") as update:
            for place, explanation in explain(network.classifier, images, settings, update):
                record = _record(todo[place], names, images[place], explanation)
                write_explanation(output, record)
                entry = summary(record) | {"input_sha256": todo[place].sha256()}
                entries[entry["folder"]] = entry
                if time.monotonic() - last_write > _SECONDS_BETWEEN_WRITES:
                    _write_results(path, results, entries)
                    last_write = time.monotonic()
    finally:
        # Also when interrupted: what is finished is listed, and so not done again.
        _write_results(path, results, entries)
    return results


def _record(
    image: NamedImage, class_names: tuple[str, ...], pixels: Float[np.ndarray, "32 32 3"], explanation: Explanation
) -> ExplainedImage:
    return ExplainedImage(
        name=image.name,
        label=image.label,
        label_is_given=image.label_is_given,
        class_names=class_names,
        input=pixels,
        explanations=pixels + explanation.perturbations,
        confidences=explanation.confidences,
        logits=explanation.logits,
        rms=explanation.rms,
        first_ok=explanation.first_ok,
        reached=explanation.reached & explanation.finite,
        second=second_class(explanation.logits, image.label),
    )


def _folder(image: NamedImage, class_names: Sequence[str]) -> str:
    return folder_name(image.name, class_names[image.label])


def _is_done(
    output: Path, done: Sequence[dict[str, Any]], image: NamedImage, class_names: Sequence[str], overwrite: bool
) -> bool:
    folder = _folder(image, class_names)
    entry = next((entry for entry in done if entry["folder"] == folder), None)
    if entry is None or not (output / folder).is_dir() or not difference_folder(output, folder).is_dir():
        return False
    if entry.get("input_sha256") == image.sha256():
        return True
    if overwrite:
        return False
    raise UserError(f"{output / folder} explains another image of that name: choose another --output, or --overwrite")


def _remove_pictures(output: Path, path: Path) -> None:
    """Remove what an earlier call with other settings wrote, as its results file lists it."""
    with contextlib.suppress(UserError, KeyError, TypeError, IndexError):
        earlier = read_json(path)
        for entry in earlier["images"]:
            # Made anew, not read from the file: a path in it must not lead out of `output`.
            folder = folder_name(str(entry["name"]), str(earlier["class_names"][entry["label"]]))
            shutil.rmtree(difference_folder(output, folder), ignore_errors=True)
            shutil.rmtree(output / folder, ignore_errors=True)
    path.unlink()


def _write_results(path: Path, results: dict[str, Any], entries: dict[str, dict[str, Any]]) -> None:
    results["images"] = sorted(entries.values(), key=lambda entry: natural_order(entry["name"]))
    if entries:
        write_json(path, results)
