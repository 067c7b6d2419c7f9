"""Explanations of images: pictures of each, a gallery and JSON of all."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from advx_jax.analysis.accuracy import predict
from advx_jax.analysis.attribution.base import Attribution
from advx_jax.analysis.comparison import Comparison, Plan, explain_and_attribute, is_compared, method_settings, plan
from advx_jax.analysis.explanations import Explanation, explain, second_class
from advx_jax.analysis.soundness import check_classes
from advx_jax.analysis.targets import ALL_CLASSES, Targets, chosen_targets
from advx_jax.attacks import ExplanationAttack
from advx_jax.data.binary_batches import check_labels
from advx_jax.data.image_set import ImageSet, numbered_classes, unit_images
from advx_jax.data.lazy_pixels import LazyPixels
from advx_jax.data.own_files import natural_order
from advx_jax.data.own_images import OwnImage
from advx_jax.errors import UserError
from advx_jax.files import check_output_folder
from advx_jax.messages import one_line
from advx_jax.names import safe_name, unique_names
from advx_jax.networks.class_names import class_names_of
from advx_jax.networks.classifier import Classifier
from advx_jax.networks.own_classifier import OwnClassifier
from advx_jax.networks.registry import NamedModel
from advx_jax.progress import Update, announce
from advx_jax.reports.attribution_tree import are_written, forget_attributions, write_comparison
from advx_jax.reports.explanation_tree import (
    FORMAT,
    RESULTS_FILE,
    ExplainedImage,
    folder_name,
    forget_pictures,
    has_pictures,
    is_folder_name,
    summary,
    without_stand_ins,
    write_explanation,
)
from advx_jax.reports.explanation_words import closing_words, cost_in_words, shortfall
from advx_jax.reports.gallery import Beside, check_pages_replaceable, write_gallery
from advx_jax.reports.results_json import attack_record, older_results, plain, read_json, write_json
from advx_jax.runs.measurement import Measurement, Pass, measure
from advx_jax.runs.record_checks import is_comparison, is_explanation
from advx_jax.runs.shares import WHOLE, Share
from advx_jax.runs.store import Record, others_kept_out

_STORE_FILE = "explanations.jsonl"
Found = Callable[[str, Explanation, Comparison | None], None]
"""Gets what was made of an image, with the image's name."""

BESIDE_FOLDER = "beside"
"""Where explanations by second networks lie; no image's folder has such a name, without `-`."""


class NamedImage(NamedTuple):
    """An image to be explained.

    Attributes:
        name: index in the data set, or the stem of a person's own file.
        place: of its pixels among those of all.
        label: the real class, or the network's top class where nobody says which is the real one.
        label_is_given: whether `label` is the real class.
    """

    name: str
    place: int
    label: int
    label_is_given: bool


class ImagesToExplain(NamedTuple):
    """Images to be explained.

    Attributes:
        images: which.
        pixels: 0 to 255, of all; read when they are asked for.
        source: in words, where they come from.
        class_names: what their classes are called.
    """

    images: list[NamedImage]
    pixels: UInt8[np.ndarray, "n height width channels"] | LazyPixels
    source: str
    class_names: tuple[str, ...]


def given_images(data: ImageSet, indices: Sequence[int]) -> ImagesToExplain:
    """Images of a data set by their indices, which must be there."""
    images = [NamedImage(str(place), place, int(data.labels[place]), True) for place in indices]
    return ImagesToExplain(images, data.images, data.source, data.class_names)


def own_images(classifier: Classifier | OwnClassifier, own: Sequence[OwnImage]) -> ImagesToExplain:
    """A person's own images; where nobody says what an image is, the network's top class stands in for the real one."""
    class_names = class_names_of(classifier) or numbered_classes(classifier.n_classes)
    check_labels((image.label for image in own if image.label is not None), "own image files", len(class_names))
    pixels = np.stack([image.pixels for image in own])
    tops = predict(classifier, unit_images(pixels)).classes
    names = unique_names([one_line(image.path.stem) for image in own])
    images = [
        # Where there is no top class the picture tree needs one all the same; the record shows what the network says.
        NamedImage(name, place, max(int(top), 0) if image.label is None else image.label, image.label is not None)
        for place, (name, image, top) in enumerate(zip(names, own, tops, strict=True))
    ]
    return ImagesToExplain(images, pixels, "own image files", class_names)


class ExplanationPictures(Measurement[dict[str, Any]]):
    """Explanations of images by one network; pictures are written before their records.

    Args:
        network: whose answers to explain.
        wanted: the images.
        attack: how to explain.
        output: folder for pictures and results.
        targets: towards which classes.
        replaces: what explains another image of the same name may be replaced.
        found: gets each explanation that is made now, with the image's name.
        methods: to compare with, by their names.

    Raises:
        UserError: network and images do not fit, a method does not work with them, or nothing can be written to
            `output`.
    """

    command = "explain"
    format = FORMAT
    shows_part = True

    def __init__(
        self,
        network: NamedModel,
        wanted: ImagesToExplain,
        attack: ExplanationAttack,
        output: Path,
        targets: Targets = ALL_CLASSES,
        replaces: bool = False,
        found: Found = lambda *_: None,
        methods: Mapping[str, Attribution] = MappingProxyType({}),
    ) -> None:
        check_classes(network.classifier, wanted.class_names)
        self._network, self._wanted, self._attack, self._methods = network, wanted, attack, methods
        self._compares = is_compared(methods, attack)
        self._n_targets = targets.count(len(wanted.class_names))
        self._digests: dict[int, str] = {}
        if methods and wanted.images:
            self._plan(1)
        check_output_folder(output)
        check_pages_replaceable(output)
        self.output, self._targets, self._replaces, self._found = output, targets, replaces, found
        self._named = {_folder(image, wanted.class_names): image for image in wanted.images}
        self.path: Path = output / _STORE_FILE
        self.settings = attack_record(network, attack.settings())
        if targets != ALL_CLASSES:
            self.settings["targets"] = targets.text
        if methods:
            self.settings["methods"] = method_settings(methods, attack)
        self.images = list(self._named)

    def is_valid(self, key: str, record: Record) -> bool:
        """Whether it is an entry of `explanations.json`."""
        if not is_explanation(self._wanted.class_names, key, record):
            return False
        return is_comparison(self._methods, record) if self._compares else True

    def forget(self, records: Mapping[str, Record]) -> None:
        """Remove their pictures, and the list of all."""
        folders = [key for key in records if is_folder_name(key)]
        for folder in folders:
            forget_pictures(self.output, folder)
        forget_attributions(self.output, folders)
        (self.output / RESULTS_FILE).unlink(missing_ok=True)

    def older(self) -> Mapping[str, Any] | None:
        """Earlier releases kept nothing but the results."""
        return older_results(
            self.output / RESULTS_FILE, lambda results: {entry["folder"]: entry for entry in results["images"]}
        )

    def is_done(self, key: str, records: Mapping[str, Record]) -> bool:
        """Whether the pictures of this very image are there.

        Raises:
            UserError: another image of that name is explained there.
        """
        record, image = records.get(key), self._named[key]
        if record is None or not self._has_pictures(key):
            return False
        if record.get("input_sha256") == self._sha256(image):
            # What was taken for the real class may be known to be it now.
            return bool(record["label_is_given"] or not image.label_is_given)
        if self._replaces:
            return False
        folder = self.output / key
        raise UserError(f"{folder} explains another image of that name: choose another --output, or --overwrite")

    def _sha256(self, image: NamedImage, pixels: UInt8[np.ndarray, "height width channels"] | None = None) -> str:
        """Of the pixels, which are read once only."""
        if image.place not in self._digests:
            read = self._wanted.pixels[image.place] if pixels is None else pixels
            self._digests[image.place] = hashlib.sha256(read.tobytes()).hexdigest()
        return self._digests[image.place]

    def _has_pictures(self, key: str) -> bool:
        return has_pictures(self.output, key) and are_written(self.output, self._methods, key)

    def passes(self, images: Sequence[str], records: Mapping[str, Record], done: Update) -> Iterator[Pass]:
        """Explain them."""
        classifier, names = self._network.classifier, tuple(self._wanted.class_names)
        planned = self._plan(len(images))
        if self._methods:
            n_missing = sum(not self.is_done(key, records) for key in images)
            announce(cost_in_words(self._network.provenance.name, n_missing, self._n_targets, planned.passes))

        def compute(folders: list[str]) -> Iterator[dict[str, Record]]:
            todo = [self._named[folder] for folder in folders]
            read = self._wanted.pixels[[image.place for image in todo]]
            pixels = unit_images(read)
            labels = np.array([image.label for image in todo])
            targets = chosen_targets(classifier, pixels, labels, self._targets)
            for place, explanation, comparison in self._explained(planned, pixels, targets, done):
                record = _record(todo[place], names, pixels[place], explanation)
                entry = summary(record) | {"input_sha256": self._sha256(todo[place], read[place])}
                # Pictures come before their record, which must never be of pictures that are not there.
                if comparison is not None:
                    entry |= write_comparison(self.output, record, comparison)
                write_explanation(self.output, record)
                self._found(todo[place].name, explanation, comparison)
                yield {folders[place]: plain(entry)}

        yield Pass(images, lambda key: self.is_done(key, records), compute, planned.chunk.rows)

    def _plan(self, n_images: int) -> Plan:
        # Of so many images without their values, which do not count and need no memory so.
        images = np.broadcast_to(np.uint8(0), (n_images, *self._wanted.pixels.shape[1:]))
        return plan(self._network.classifier, images, self._attack, self._methods, self._n_targets)

    def _explained(
        self,
        planned: Plan,
        images: Float[np.ndarray, "n height width channels"],
        targets: Int[np.ndarray, "n targets"] | None,
        done: Update,
    ) -> Iterator[tuple[int, Explanation, Comparison | None]]:
        classifier = self._network.classifier
        if not self._compares:
            for place, explanation in explain(classifier, images, self._attack, done, planned.chunk, targets):
                yield place, explanation, None
            return
        yield from explain_and_attribute(classifier, images, planned, targets, done)

    def summarise(self, records: Mapping[str, Record], seconds: Mapping[str, float]) -> dict[str, Any]:
        """Write gallery and JSON of all that is there; returns what the JSON holds."""
        del seconds
        results = self.results_head(self.settings)
        results |= {"data": self._wanted.source, "class_names": tuple(self._wanted.class_names)}
        # Somebody may have removed pictures since.
        there = (record for key, record in records.items() if self._has_pictures(key))
        shown = without_stand_ins(there, self._named)
        results["images"] = sorted(shown, key=lambda record: natural_order(record["name"]))
        write_json(self.output / RESULTS_FILE, results)
        write_gallery(self.output, results)
        return results


def write_explanations(
    network: NamedModel,
    wanted: ImagesToExplain,
    attack: ExplanationAttack,
    output: Path,
    overwrite: bool,
    strict: bool,
    beside: NamedModel | None = None,
    share: Share = WHOLE,
    targets: Targets = ALL_CLASSES,
    found: Found = lambda *_: None,
    methods: Mapping[str, Attribution] = MappingProxyType({}),
) -> str:
    """Explain images towards classes; write pictures, gallery and JSON for each as it is finished.

    Images that are there already, with the same network and settings, are not explained again; those of
    earlier calls with other images stay and are listed too.

    Args:
        network: whose answers to explain.
        wanted: the images.
        attack: how to explain.
        output: folder for pictures, `index.html` and `explanations.json`; its subfolder `beside` takes the
            explanations of second networks, which have all files of their own.
        overwrite: replace explanations made with other settings.
        strict: fail if an explanation did not reach ρ.
        beside: a second network, whose explanations of the same images are shown in the gallery, too.
        share: of this process.
        targets: towards which classes; each network's own likeliest ones.
        found: gets each explanation by the first network that is made now, with the image's name.
        methods: to compare with, by their names (`analysis.comparison.chosen_methods`).

    Returns:
        A table of what the networks say, a summary, and a note if explanations did not reach ρ; or what other
        processes still have to do.

    Raises:
        UserError: a network does not have the images' classes; `output` holds explanations of other settings
            or images and must not be overwritten; or `strict`, and an explanation did not reach ρ.
    """
    for resolved in (network, *([] if beside is None else [beside])):
        check_classes(resolved.classifier, wanted.class_names)
    by_first = ExplanationPictures(network, wanted, attack, output, targets, overwrite, found, methods)
    by_second = None
    if beside is not None:
        folder = output / BESIDE_FOLDER / safe_name(beside.provenance.name)
        by_second = ExplanationPictures(beside, wanted, attack, folder, targets, overwrite, methods=methods)
        by_first.of, by_second.of = network.provenance.name, beside.provenance.name
    first = measure(by_first, overwrite, share)
    second = None if by_second is None else measure(by_second, overwrite, share)
    if first.summary is None and second is not None and not share.together:
        # Other shards may have completed it while this one was at the second, and left the gallery to whoever is last.
        first = measure(by_first, share=share)
    if first.summary is None:
        return first.status
    if second is not None and second.summary is None:
        return second.status
    results, other = first.summary, None if second is None else second.summary
    if by_second is not None and other is not None:
        with others_kept_out(by_first.path):
            # Read again: in the meantime, another process may have added images.
            write_gallery(output, read_json(output / RESULTS_FILE), Beside(by_second.output, other))
    # The second network is shown for comparison: it may miss ρ even where the first must not.
    if strict and (message := shortfall(results, set(by_first.images))):
        raise UserError(message)
    return closing_words(output, results, other, set(by_first.images))


def _record(
    image: NamedImage,
    class_names: tuple[str, ...],
    pixels: Float[np.ndarray, "height width channels"],
    explanation: Explanation,
) -> ExplainedImage:
    return ExplainedImage(
        name=image.name,
        label=image.label,
        label_is_given=image.label_is_given,
        class_names=class_names,
        input=pixels,
        targets=explanation.targets,
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
