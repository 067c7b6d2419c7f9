"""A measurement with a fixed budget, written to a file as it goes on, so that it can be taken up again."""

import collections
import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from advx_jax.analysis.robust_accuracy import FirstLook, attack_standing, first_look, good_rows
from advx_jax.analysis.segments import segment_lengths
from advx_jax.analysis.workers import chunk_rows, lanes
from advx_jax.attacks import Attack, FirstSuccess
from advx_jax.attacks.base import Part
from advx_jax.attacks.projections import Norm
from advx_jax.data.image_set import ImageSet, unit_images
from advx_jax.networks.registry import ResolvedNetwork
from advx_jax.reports.earlier_checks import is_index
from advx_jax.reports.fixed_budget_files import BrokenImages
from advx_jax.reports.results_json import head, older_results
from advx_jax.runs.eta import Estimate, Phase
from advx_jax.runs.progress import progress
from advx_jax.runs.store import Record, Rules, Store
from advx_jax.runs.work import complete

FORMAT = 1
STORE_FILE = "images.jsonl"
"""Of an image: the fields of `FirstLook`; `runs`, how many runs it went through; `broken_by`, `predicted`
and `distance` once it is broken; `not_finite_under`, the last attack that met an infinite or NaN logit."""
# What earlier releases kept instead.
_OLDER_FILE = "images.json"


class Plan(NamedTuple):
    """What is to be measured.

    Attributes:
        attack: name of the whole.
        members: its attacks, in their order, with eps and norm.
        eps: radius in the norm, on the [0,1] scale.
        norm: "L2" or "Linf".
        seed: of all random draws.
        stay_in_range: keep perturbed images in [0,1].
        n_images: how many test images, from the first.
    """

    attack: str
    members: tuple[Attack, ...]
    eps: float
    norm: Norm
    seed: int
    stay_in_range: bool
    n_images: int

    def depends_on(self, network: ResolvedNetwork, data: ImageSet) -> dict[str, Any]:
        """Everything that an image's result depends on, apart from the image."""
        return {
            "model": network.provenance.name,
            "network_sha256": network.classifier.fingerprint(),
            "data_sha256": data.fingerprint,
            "attack": self.attack,
            "steps": {member.name: member.parts()[0].attack.n_steps for member in self.members},
            "restarts": {member.name: getattr(member, "restarts", 1) for member in self.members},
            "norm": self.norm,
            "eps": self.eps,
            "seed": self.seed,
            "stay_in_range": self.stay_in_range,
        }


class Measured(NamedTuple):
    """What is known of the images.

    Attributes:
        records: of each image, in their order.
        seconds: that each attack took, by its name, over all calls.
    """

    records: list[Record]
    seconds: dict[str, float]


@contextlib.contextmanager
def measured(
    network: ResolvedNetwork, data: ImageSet, plan: Plan, output: Path, files: BrokenImages, overwrite: bool
) -> Iterator[Measured]:
    """Attack the first test images, each attack only those still standing.

    What became of each image is kept in `images.jsonl`, and broken images in their files, as chunks are
    finished; a later call goes on from there, for fewer or more images too, and several at once share the work.

    Yields:
        What came out; other processes write no results in the meantime.

    Raises:
        UserError: `output` holds results of other settings and must not be overwritten.
    """
    n_classes = network.classifier.architecture.n_classes
    runs = FirstSuccess(attacks=plan.members).parts(n_classes)
    names, older = {member.name for member in plan.members}, output / _OLDER_FILE

    def forget(records: Mapping[str, Record]) -> None:  # noqa: ARG001 (orphans of a killed call go too)
        older.unlink(missing_ok=True)
        files.forget()

    def accepts(key: str, record: Record) -> bool:
        sound = is_index(key, len(data)) and all(type(record.get(name)) is bool for name in FirstLook._fields)
        if not (sound and type(record.get("runs")) is int and 0 <= record["runs"] <= len(runs)):
            return False
        if "broken_by" not in record:
            return record.get("not_finite_under") in {None, *names}
        sound = record["broken_by"] in names and type(record.get("predicted")) is int
        distance = record.get("distance")
        return sound and 0 <= record["predicted"] < n_classes and isinstance(distance, float) and files.holds(int(key))

    rules = Rules(accepts, forget, lambda: older_results(older, lambda results: results["images"]))
    kept = head("robustness", FORMAT, plan.depends_on(network, data))
    with Store(output / STORE_FILE, kept, overwrite, rules) as store:
        _Measurement(network, data, plan, runs, store, files).measure()
        with store.final():
            yield Measured([store.records[str(index)] for index in range(plan.n_images)], store.seconds)


class _Measurement:
    def __init__(
        self,
        network: ResolvedNetwork,
        data: ImageSet,
        plan: Plan,
        runs: Sequence[Part],
        store: Store,
        files: BrokenImages,
    ) -> None:
        self._classifier, self._data, self._plan = network.classifier, data, plan
        self._runs, self._store, self._files = runs, store, files
        self._keys = [str(index) for index in range(plan.n_images)]
        costs = np.array([run.attack.n_steps * run.attack.passes_per_step for run in runs], float)
        # Of an image's work, the part that is done before each run.
        self._before = np.concatenate([[0], np.cumsum(costs / costs.sum())])
        phases = []
        for run in runs:
            attack = run.attack
            segments = len(segment_lengths(attack.n_steps))
            phases.append(Phase(attack.name, segments, attack.n_steps * attack.passes_per_step / segments))
        self._estimate = Estimate(phases, self._rows, len(lanes()))
        self._shown = 0.0

    def measure(self) -> None:
        plan, records, told = self._plan, self._store.records, self._told_elsewhere
        known = [record for record in map(records.get, self._keys) if record is not None]
        for record in known:
            if record["correct"]:
                for position in range(record["runs"]):
                    self._estimate.learn(position, 1, int(stands(record) or position + 1 < record["runs"]))
        self._shown = sum(map(self._share, known))
        left = self._estimate.seconds_left
        with progress(plan.n_images, "image", "robustness", self._shown, seconds_left=left) as self._update:
            rows = chunk_rows(plan.n_images)
            look = functools.partial(self._look, rows)
            complete(self._store, self._keys, records.__contains__, look, rows * len(lanes()), told)
            for position, run in enumerate(self._runs):
                told([])
                rows = self._rows(sum(self._has_reached(records[key], position) for key in self._keys))
                is_done = functools.partial(self._is_done, position)
                attack = functools.partial(self._attack, position, rows)
                complete(self._store, self._keys, is_done, attack, rows * len(lanes()), told, run.attack.name)

    def _show(self, amount: float, spared: bool = False) -> None:
        self._shown += amount
        self._update(amount, spared=spared)

    def _told_elsewhere(self, keys: list[str]) -> None:  # noqa: ARG002 (what is there tells all)
        """Show what other processes have done, and count anew what is still to be done."""
        known = [record for record in map(self._store.records.get, self._keys) if record is not None]
        self._show(sum(map(self._share, known)) - self._shown, spared=True)
        waiting = collections.Counter(record["runs"] for record in known if stands(record))
        self._estimate.wait([waiting[position] for position in range(len(self._runs))])

    def _share(self, record: Record | None) -> float:
        """The part of an image's work that is done."""
        if record is None:
            return 0.0
        return float(self._before[record["runs"]]) if stands(record) else 1.0

    def _rows(self, n: int) -> int:
        return good_rows(n, self._plan.n_images)

    def _has_reached(self, record: Record, position: int) -> bool:
        """Whether an image stood before a run, be it that it went through it already."""
        return record["correct"] and (record["runs"] > position or stands(record))

    def _is_done(self, position: int, key: str) -> bool:
        record = self._store.records[key]
        return record["runs"] > position or not stands(record)

    def _load(self, block: list[int]) -> tuple[np.ndarray, np.ndarray]:
        return unit_images(self._data.images[block]), self._data.labels[block].astype(np.int32)

    def _look(self, rows: int, keys: list[str]) -> Iterator[dict[str, Record]]:
        seen = first_look(self._classifier, *self._load([int(key) for key in keys]), rows)
        found = {}
        for key, *fields in zip(keys, *seen, strict=True):
            found[key] = {name: bool(value) for name, value in zip(seen._fields, fields, strict=True)} | {"runs": 0}
            self._show(self._share(found[key]), spared=True)
        yield found

    def _attack(self, position: int, rows: int, keys: list[str]) -> Iterator[dict[str, Record]]:
        plan, run = self._plan, self._runs[position]
        records, estimate = self._store.records, self._estimate
        cost = float(self._before[position + 1] - self._before[position])
        rest = float(1 - self._before[position + 1])

        def advanced(images_done: float) -> None:
            estimate.segment()
            self._show(cost * images_done)

        def spared(images_spared: float) -> None:
            estimate.skip()
            self._show(cost * images_spared, spared=True)

        block = [int(key) for key in keys]
        images, labels = self._load(block)
        estimate.begin(position, len(block), rows)
        for places, attacked in attack_standing(
            self._classifier,
            images,
            labels,
            np.array(block),
            run,
            jax.random.key(plan.seed),
            rows,
            advanced,
            spared,
        ):
            found = {}
            for place, success, predicted, distance, adversarial, finite in zip(places, *attacked, strict=True):
                record = records[keys[place]] | {"runs": position + 1}
                if not finite:
                    record["not_finite_under"] = run.attack.name
                if success:
                    # Before its record, which must never be of an image that is not there.
                    self._files.keep(block[place], adversarial)
                    record |= {"broken_by": run.attack.name, "predicted": int(predicted), "distance": float(distance)}
                    self._show(rest, spared=True)
                found[keys[place]] = record
            estimate.go_on(position, len(found), sum(map(stands, found.values())))
            yield found


def stands(record: Record) -> bool:
    """Whether an image is classified correctly and no attack broke it so far."""
    return record["correct"] and "broken_by" not in record
