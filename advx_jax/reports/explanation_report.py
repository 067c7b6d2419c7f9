"""Explanations of many images as files: pictures, gallery, JSON; kept as they come."""

import functools
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from advx_jax.analysis.accuracy import predict
from advx_jax.analysis.explanations import Explanation, explain, second_class
from advx_jax.analysis.soundness import check_classes
from advx_jax.analysis.workers import chunk_rows, lanes
from advx_jax.attacks import PublishedBounded
from advx_jax.data.image_set import CIFAR10_CLASSES, ImageSet, unit_images
from advx_jax.data.own_files import natural_order
from advx_jax.data.own_images import OwnImage
from advx_jax.errors import UserError
from advx_jax.files import check_output_folder, locked
from advx_jax.names import safe_name, unique_names
from advx_jax.networks.classifier import Classifier
from advx_jax.networks.registry import ResolvedNetwork
from advx_jax.reports.earlier_checks import is_explanation
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
from advx_jax.reports.results_json import attack_record, head, older_results, plain, read_json, write_json
from advx_jax.runs.progress import progress
from advx_jax.runs.store import LOCK_FILE, Record, Rules, Store
from advx_jax.runs.work import complete
from advx_jax.wording import one_line

RESULTS_FILE = "explanations.json"
STORE_FILE = "explanations.jsonl"
BESIDE_FOLDER = "beside"
"""Where explanations by second networks lie; no image's folder has such a name, without `-`."""


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
    tops = predict(classifier, unit_images(pixels)).classes
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
    attack: PublishedBounded,
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
        attack: towards a class.
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
    check_output_folder(output)
    folder = None if beside is None else output / BESIDE_FOLDER / safe_name(beside.provenance.name)
    if folder:
        check_output_folder(folder)
    results = _explain_into(output, network, wanted, attack, overwrite)
    other = None
    if beside is not None and folder is not None:
        other = _explain_into(folder, beside, wanted, attack, overwrite)
        with locked(output / LOCK_FILE):
            # Read again: in the meantime, another process may have added images.
            write_gallery(output, read_json(output / RESULTS_FILE), Beside(folder, other))
    folders = {_folder(image, wanted.class_names) for image in wanted.images}
    # The second network is shown for comparison: it may miss ρ even where the first must not.
    if strict and (message := shortfall(results, folders)):
        raise UserError(message)
    return closing_words(output, results, other, folders)


def _explain_into(
    output: Path, network: ResolvedNetwork, wanted: ImagesToExplain, attack: PublishedBounded, overwrite: bool
) -> dict[str, Any]:
    """Explain what is missing in `output`, and list all that is there; returns the content of its results file."""
    results = head("explain", FORMAT, attack_record(network, attack.settings()))
    path = output / RESULTS_FILE
    names = tuple(wanted.class_names)
    images = {_folder(image, names): image for image in wanted.images}
    rows = chunk_rows(len(images), network.classifier.architecture.n_classes)
    rules = Rules(
        functools.partial(is_explanation, names),
        functools.partial(_forget, output),
        lambda: older_results(path, _older_records),
    )
    with Store(output / STORE_FILE, results, overwrite, rules) as store:
        is_done = functools.partial(_is_done, output, images, store.records, overwrite)

        def measure(folders: list[str]) -> Iterator[dict[str, Record]]:
            todo = [images[folder] for folder in folders]
            pixels = unit_images(np.stack([image.pixels for image in todo]))
            for place, explanation in explain(network.classifier, pixels, attack, update, rows):
                record = _record(todo[place], names, pixels[place], explanation)
                # Before its record, which must never be of pictures that are not there.
                write_explanation(output, record)
                yield {folders[place]: plain(summary(record) | {"input_sha256": todo[place].sha256()})}

        def done_elsewhere(folders: list[str]) -> None:
            update(len(folders), spared=True)

        try:
            todo = sum(not is_done(folder) for folder in images)
            with progress(todo, "image", "explain") as update:
                complete(store, list(images), is_done, measure, rows * len(lanes()), done_elsewhere)
        finally:
            # Also when interrupted: a person may look at what is finished.
            with store.final():
                results |= {"data": wanted.source, "class_names": names}
                results["images"] = sorted(store.records.values(), key=lambda record: natural_order(record["name"]))
                if store.records:
                    write_json(path, results)
                    write_gallery(output, results)
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
    output: Path, images: Mapping[str, NamedImage], records: Mapping[str, Record], overwrite: bool, folder: str
) -> bool:
    record = records.get(folder)
    if record is None or not (output / folder).is_dir() or not difference_folder(output, folder).is_dir():
        return False
    if record.get("input_sha256") == images[folder].sha256():
        return True
    if overwrite:
        return False
    raise UserError(f"{output / folder} explains another image of that name: choose another --output, or --overwrite")


def _older_records(results: dict[str, Any]) -> dict[str, Record]:
    return {entry["folder"]: entry for entry in results["images"]}


def _forget(output: Path, records: Mapping[str, Record]) -> None:
    for folder in records:
        shutil.rmtree(difference_folder(output, folder), ignore_errors=True)
        shutil.rmtree(output / folder, ignore_errors=True)
    (output / RESULTS_FILE).unlink(missing_ok=True)
