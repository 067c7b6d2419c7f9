"""Accuracy-robustness area: each image's distances to two boundaries."""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from advx_jax.analysis.chunks import chunk_rows
from advx_jax.analysis.robustness_area import (
    KINDS,
    Distances,
    minimum_norm_distances,
    robustness_curve,
)
from advx_jax.analysis.row_cost import row_bytes
from advx_jax.analysis.soundness import check_fit
from advx_jax.analysis.subset import SUBSET_SEED, ara_subset
from advx_jax.attacks import Attack, example_keys
from advx_jax.attacks.passes import total_passes
from advx_jax.attacks.projections import Norm
from advx_jax.data.image_set import ImageSet
from advx_jax.files import check_output_folder
from advx_jax.networks.registry import NamedModel
from advx_jax.progress import Update
from advx_jax.reports.ara_files import RESULTS_FILE, MeasuredArea, write_areas
from advx_jax.reports.results_json import attack_record, older_results
from advx_jax.reports.units import RMS, UNITS
from advx_jax.runs.blocks import at_start, load_block
from advx_jax.runs.measurement import Measurement, Pass
from advx_jax.runs.record_checks import is_distance, is_index
from advx_jax.runs.store import Record

# What earlier releases kept instead of a store.
_OLDER_FILE = "distances.json"


class RobustnessAreas(Measurement[str]):
    """Distances of a subset until misclassified (attack) and until no better than random (BTR).

    The subset of the CIFAR-10 test set is the published one, that of other images is drawn by the same rule.

    Args:
        network: to measure.
        data: labelled images.
        n_images: how many of the subset.
        attack: a minimum-norm attack; its criterion is set here.
        output: folder for the results.
        norm: that the attack minimises, to tell distances in it; as RMS if None.

    Raises:
        UserError: network and images do not fit, or nothing can be written to `output`.
    """

    command = "ara"

    def __init__(
        self,
        network: NamedModel,
        data: ImageSet,
        n_images: int,
        attack: Attack,
        output: Path,
        norm: Norm | None = None,
    ) -> None:
        check_fit(network.classifier, data)
        check_output_folder(output)
        self._network, self._data, self._attack, self._output = network, data, attack, output
        self._indices = ara_subset(data, n_images)
        self.path, self.results = output / "distances.jsonl", output / RESULTS_FILE
        self.settings = attack_record(network, attack.settings()) | {"data_sha256": data.fingerprint}
        self._norm: Norm | None = norm
        if norm is not None:
            self.settings["distance_norm"] = norm
        if not data.has_published_order:
            self.settings["subset_seed"] = SUBSET_SEED
        self.images = [str(index) for index in self._indices]

    def keys(self, image: str) -> tuple[str, ...]:
        """One for each boundary."""
        return tuple(f"{kind}/{image}" for kind in KINDS)

    def is_valid(self, key: str, record: Record) -> bool:
        """Whether it is a boundary and an index, with the fields of `Distances`."""
        kind, _, index = key.partition("/")
        sound = kind in KINDS and is_index(index, len(self._data)) and list(record) == list(Distances._fields)
        return sound and is_distance(*record.values())

    def forget(self, records: Mapping[str, Record]) -> None:
        """Remove what an earlier release kept."""
        del records
        (self._output / _OLDER_FILE).unlink(missing_ok=True)

    def older(self) -> Mapping[str, Any] | None:
        """Distances that an earlier release kept."""
        return older_results(self._output / _OLDER_FILE, _older_records)

    def passes(self, images: Sequence[str], records: Mapping[str, Record], done: Update) -> Iterator[Pass]:
        """For each boundary, the images that need no attack first, so that what is left fills its chunks."""
        spare = functools.partial(done, spared=True)
        for kind, criterion in KINDS.items():
            keys = [f"{kind}/{image}" for image in images]
            if all(key in records for key in keys):
                continue
            attack = self._attack.until(criterion)
            attacked = self._attacked(kind, images, attack)
            rows = chunk_rows(len(attacked), row_bytes(self._network.classifier, self._data.images, attack))

            def compute(keys: list[str], attack: Attack = attack, rows: int = rows) -> Iterator[dict[str, Record]]:
                block = [int(key.partition("/")[2]) for key in keys]
                images, draws = load_block(self._data, block), example_keys(None, jnp.asarray(block))
                for places, found in minimum_norm_distances(
                    self._network.classifier, *images, attack, draws, done, spare, rows, self._norm
                ):
                    fields = zip(*found, strict=True)
                    yield {keys[place]: _record(values) for place, values in zip(places, fields, strict=True)}

            for part in (sorted(set(keys) - set(attacked)), attacked):
                yield Pass(part, records.__contains__, compute, rows)

    def _attacked(self, kind: str, images: Sequence[str], attack: Attack) -> list[str]:
        """Of all images, not of those that are left: in chunks of another size, numbers would round otherwise."""
        found = at_start(self._network.classifier, self._data, list(map(int, images)), attack.criterion)
        return [f"{kind}/{image.place}" for image in found if image.needs_attack and image.finite]

    def summarise(self, records: Mapping[str, Record], seconds: Mapping[str, float]) -> str:
        """Write `ara.json` and the curves; returns a table."""
        del seconds
        n_classes = self._network.classifier.n_classes
        results = self.results_head({**self.settings, "n_images": len(self._indices)})
        shape = tuple(self._data.images.shape[1:])
        gradients = total_passes(self._attack, n_classes, shape).backward or self._attack.evaluations
        results |= {"data": self._data.source, "gradient_evaluations": gradients}
        areas = {}
        for kind in KINDS:
            distances = _distances([records[f"{kind}/{index}"] for index in self._indices])
            # Crossed early enough to leave half of the steps for shrinking, as the public code demands.
            in_time = distances.first_ok <= self._attack.n_steps // 2
            areas[kind] = MeasuredArea(robustness_curve(distances.distances, n_classes), distances, in_time)
        title = f"{self._network.provenance.name}: accuracy under attack, {len(self._indices)} test images"
        pixels = math.prod(shape)
        unit = RMS if self._norm is None else self._norm
        if self._norm is not None:
            results |= {"unit": UNITS[unit]}
        table = write_areas(self._output, results, areas, self._indices, n_classes, title, pixels, unit)
        return f"{title}\ndata: {self._data.source}\n{table}"


def _record(fields: Iterable[Any]) -> Record:
    """The fields of `Distances` of an image. A distance that is not finite is null; what it is, the flags say."""
    record = {name: field.item() for name, field in zip(Distances._fields, fields, strict=True)}
    if not math.isfinite(record["distances"]):
        record["distances"] = None
    return record


def _older_records(results: dict[str, Any]) -> dict[str, Record]:
    return {
        f"{kind}/{int(index)}": dict(zip(Distances._fields, row, strict=True))
        for kind, rows in results["measured"].items()
        for index, row in rows.items()
    }


def _distances(records: Sequence[Record]) -> Distances:
    rms, first_ok, crossed, finite = (list(column) for column in zip(*(r.values() for r in records), strict=True))
    known = [math.nan if value is None else value for value in rms]
    return Distances.found(np.array(known), np.array(first_ok), np.array(crossed), np.array(finite))
