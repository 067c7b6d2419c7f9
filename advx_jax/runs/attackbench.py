"""Minimum-norm attacks scored against each other: each image's smallest distance by each, after so many passes."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from advx_jax.analysis.chunks import chunk_rows
from advx_jax.analysis.distances_by_passes import distances_by_passes, passes_at_looks
from advx_jax.analysis.row_cost import row_bytes
from advx_jax.analysis.soundness import check_fit
from advx_jax.attacks import Attack, Misclassified, example_keys
from advx_jax.attacks.passes import Passes, total_passes, within_budget
from advx_jax.attacks.projections import Norm
from advx_jax.data.image_set import ImageSet
from advx_jax.errors import UserError
from advx_jax.files import check_output_folder
from advx_jax.networks.registry import NamedModel
from advx_jax.progress import Update
from advx_jax.reports.attackbench import RESULTS_FILE, ScoredAttack, write_scores
from advx_jax.reports.known_distances import KnownDistances, check_known, read_known
from advx_jax.reports.results_json import attack_record, fingerprint
from advx_jax.runs.blocks import AtStart, at_start, load_block
from advx_jax.runs.measurement import Measurement, Pass
from advx_jax.runs.record_checks import is_distance_list, is_index
from advx_jax.runs.store import Record

_KEY = re.compile(r"[0-9a-f]{16}/(\d+)")


class Contestant(NamedTuple):
    """An attack and what it may cost.

    Attributes:
        name: for people; of two forms of one attack the names differ.
        attack: with any number of steps.
        budget: of passes through the model, forward and backward, for each image.
    """

    name: str
    attack: Attack
    budget: int


class _Entry(NamedTuple):
    """A contestant as it runs.

    Attributes:
        name: for people.
        attack: with as many steps as the budget allows.
        digest: of its settings, in the keys of its records: they are kept whoever else takes part.
        looks: passes made at each look.
        passes: in all.
    """

    name: str
    attack: Attack
    digest: str
    looks: list[int]
    passes: Passes


class AttackBench(Measurement[str]):
    """Distances of images until misclassified by several attacks, each within a budget of passes.

    A record has `distances`, the smallest at each look (null where there is none), and `finite`. Those of an attack are
    kept under its settings, so that another attack, or another budget, costs only what is new.

    Args:
        network: to measure.
        data: labelled images.
        indices: of the images.
        norm: that all attacks minimise.
        contestants: of different names.
        output: folder for the results.
        known: files with distances that others found, to be compared with.

    Raises:
        UserError: network and images do not fit, a budget is too small, a file does not have what is compared, or
            nothing can be written to `output`.
    """

    command = "attackbench"

    def __init__(
        self,
        network: NamedModel,
        data: ImageSet,
        indices: Sequence[int],
        norm: Norm,
        contestants: Sequence[Contestant],
        output: Path,
        known: Sequence[Path] = (),
    ) -> None:
        check_fit(network.classifier, data)
        check_output_folder(output)
        self._network, self._data, self._norm, self._output = network, data, norm, output
        self._indices = list(indices)
        self._entries = [self._entry(contestant) for contestant in contestants]
        names = [entry.name for entry in self._entries]
        if len(set(names)) < len(names):
            raise UserError(f"expected attacks of different names, got {', '.join(names)}")
        self.path, self.results = output / "distances.jsonl", output / RESULTS_FILE
        self.settings = attack_record(network, {"norm": norm, "data_sha256": data.fingerprint})
        self._known: list[KnownDistances] = []
        for path in known:
            results = read_known(path)
            check_known(results, path, self.settings, self._indices)
            self._known.append(results)
        self.images = [str(index) for index in self._indices]

    def _entry(self, contestant: Contestant) -> _Entry:
        classifier, shape = self._network.classifier, tuple(self._data.images.shape[1:])
        contestant.attack.check(classifier.n_classes)
        attack = within_budget(_in_box(contestant.attack), contestant.budget, classifier.n_classes, shape)
        return _Entry(
            contestant.name,
            attack,
            fingerprint(attack.settings())[:16],
            passes_at_looks(attack, classifier.n_classes, shape),
            total_passes(attack, classifier.n_classes, shape),
        )

    def keys(self, image: str) -> tuple[str, ...]:
        """One for each attack."""
        return tuple(f"{entry.digest}/{image}" for entry in self._entries)

    def is_valid(self, key: str, record: Record) -> bool:
        """Whether it is an attack and an index, with a list of distances that never grow."""
        match = _KEY.fullmatch(key)
        if match is None or not is_index(match[1], len(self._data)) or list(record) != ["distances", "finite"]:
            return False
        looks = {entry.digest: len(entry.looks) for entry in self._entries}
        distances, n_looks = record["distances"], looks.get(key[:16])
        return (
            type(record["finite"]) is bool
            and is_distance_list(distances)
            and (n_looks is None or len(distances) == n_looks)
        )

    def passes(self, images: Sequence[str], records: Mapping[str, Record], done: Update) -> Iterator[Pass]:
        """For each attack the images that need none, then the others."""
        if all(key in records for image in images for key in self.keys(image)):
            return
        start = list(at_start(self._network.classifier, self._data, list(map(int, images)), Misclassified()))
        spared = {image.place: image for image in start if not (image.needs_attack and image.finite)}
        # Of all images, not of those that are left: in chunks of another size, numbers would round otherwise.
        attacked = [image.place for image in start if image.place not in spared]
        for entry in self._entries:
            rows = chunk_rows(len(attacked), row_bytes(self._network.classifier, self._data.images, entry.attack))

            def settle(keys: list[str], entry: _Entry = entry) -> Iterator[dict[str, Record]]:
                done(len(keys), spared=True)
                yield {key: _unattacked(spared[_index(key)], len(entry.looks)) for key in keys}

            def compute(keys: list[str], entry: _Entry = entry, rows: int = rows) -> Iterator[dict[str, Record]]:
                block = [_index(key) for key in keys]
                draws = example_keys(None, jnp.asarray(block))
                for places, found in distances_by_passes(
                    self._network.classifier, *load_block(self._data, block), entry.attack, draws, rows, done
                ):
                    yield {keys[place]: _record(*values) for place, *values in zip(places, *found, strict=True)}

            for indices, work in ((list(spared), settle), (attacked, compute)):
                keys = [f"{entry.digest}/{index}" for index in indices]
                yield Pass(keys, records.__contains__, work, rows, entry.digest if work is compute else None)

    def summarise(self, records: Mapping[str, Record], seconds: Mapping[str, float]) -> str:
        """Write `attackbench.json` and the curves; returns a table."""
        scored = []
        for entry in self._entries:
            own = [records[f"{entry.digest}/{index}"] for index in self._indices]
            scored.append(
                ScoredAttack(
                    entry.name,
                    entry.attack.settings(),
                    entry.passes,
                    entry.looks,
                    np.array([[math.inf if d is None else d for d in record["distances"]] for record in own]),
                    sum(not record["finite"] for record in own),
                    seconds.get(entry.digest, 0.0),
                )
            )
        results = self.results_head({**self.settings, "n_images": len(self._indices)})
        results |= {"data": self._data.source, "indices": self._indices}
        title = f"{self._network.provenance.name}, {self._norm}: {len(self._indices)} test images"
        table = write_scores(self._output, results, scored, self._known, self._norm, title)
        return f"{title}\ndata: {self._data.source}\n{table}\nresults: {self._output / RESULTS_FILE}"


def _in_box(attack: Attack) -> Attack:
    """The same attack, kept in [0,1] where it can be told to: other distances could not be compared."""
    can_leave = all(hasattr(part.attack, "stay_in_range") for part in attack.parts())
    return attack.with_settings(stay_in_range=True) if can_leave else attack


def _index(key: str) -> int:
    return int(key.partition("/")[2])


def _unattacked(image: AtStart, n_looks: int) -> Record:
    return {"distances": [0.0 if image.finite else None] * n_looks, "finite": image.finite}


def _record(distances: np.ndarray, finite: np.bool_) -> Record:
    return {"distances": [d if math.isfinite(d) else None for d in distances.tolist()], "finite": bool(finite)}
