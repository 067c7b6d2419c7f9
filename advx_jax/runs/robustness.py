"""Accuracy that attacks with a fixed epsilon leave: each attack goes on with the images that are still robust."""

import collections
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from advx_jax.analysis.chunks import chunk_rows
from advx_jax.analysis.robust_accuracy import SanityChecks, run_attack, sanity_checks, transferred
from advx_jax.analysis.row_cost import row_bytes
from advx_jax.analysis.segments import attack_segments
from advx_jax.analysis.soundness import check_fit
from advx_jax.analysis.workers import lanes
from advx_jax.attacks import APGD, Attack, FirstSuccess
from advx_jax.attacks.base import Part
from advx_jax.attacks.named import FIXED_EPSILON
from advx_jax.attacks.passes import steps_cost
from advx_jax.attacks.threat_model import threat_model
from advx_jax.data.image_set import ImageSet
from advx_jax.errors import UserError
from advx_jax.files import check_output_folder
from advx_jax.networks.registry import NamedModel
from advx_jax.progress import Update
from advx_jax.reports.broken_images import PICTURES_FOLDER, BrokenImages
from advx_jax.reports.results_json import fingerprint, network_record, older_results, read_json
from advx_jax.reports.robust_accuracy import RESULTS_FILE, TRANSFER, write_robust_accuracy
from advx_jax.reports.robust_accuracy_warnings import is_robust
from advx_jax.runs.blocks import load_block
from advx_jax.runs.eta import Estimate, Phase
from advx_jax.runs.measurement import Measurement, Pass
from advx_jax.runs.record_checks import is_index
from advx_jax.runs.store import Record

# What earlier releases kept instead of a store.
_OLDER_FILE = "images.json"


class RobustAccuracy(Measurement[str]):
    """What became of each of the first images under attacks in a ball.

    A record has the fields of `SanityChecks`; `runs`, how many runs of attacks the image went through; `broken_by`,
    `predicted` and `distance` once it is broken; `not_finite_under`, the last attack that met an infinite or NaN logit.

    Args:
        network: to measure.
        data: labelled images.
        n_images: how many, from the first.
        name: of the attacks together.
        attacks: of one threat model, in their order.
        seed: of all random draws.
        output: folder for the results.
        pictures: write one of each broken image.
        start_from: folder of other results, whose broken images are looked at first.

    Raises:
        UserError: network and images do not fit, attacks have several threat models, the network has too few
            classes for one, nothing can be written to `output`, or the other results are none of these images.
    """

    command = "robustness"
    estimates = True

    def __init__(
        self,
        network: NamedModel,
        data: ImageSet,
        n_images: int,
        name: str,
        attacks: Sequence[Attack],
        seed: int,
        output: Path,
        pictures: bool = False,
        start_from: Path | None = None,
    ) -> None:
        check_fit(network.classifier, data, takes_random=all(attack.takes_random for attack in attacks))
        self._n_classes = network.classifier.n_classes
        for attack in attacks:
            attack.check(self._n_classes)
        check_output_folder(output)
        if start_from is not None and start_from.resolve() == output.resolve():
            raise UserError(f"expected other results than those in {output} to start from: choose another --output")
        self._classifier, self._data, self._output = network.classifier, data, output
        self._threat, self._attacks, self._seed, self._pictures = threat_model(attacks), tuple(attacks), seed, pictures
        self._broken = BrokenImages(output, data)
        self.path, self.results = output / "images.jsonl", output / RESULTS_FILE
        self.images = [str(index) for index in range(n_images)]
        self.settings = {
            **network_record(network),
            "data_sha256": data.fingerprint,
            "attack": name,
            "steps": {attack.name: attack.parts()[0].attack.n_steps for attack in attacks},
            "restarts": {attack.name: getattr(attack, "restarts", 1) for attack in attacks},
            "norm": self._threat.norm,
            "eps": self._threat.eps,
            "seed": seed,
            "stay_in_range": self._threat.stay_in_range,
        }
        if name.lower() not in FIXED_EPSILON:
            self.settings["attack_settings"] = {attack.name: attack.settings() for attack in attacks}
        self._elsewhere: BrokenImages | None = None
        if start_from is not None:
            self.settings["start_from"] = _told_elsewhere(start_from, data)
            self._elsewhere = BrokenImages(start_from, data)
        self._runs = FirstSuccess(attacks=self._attacks).parts(self._n_classes)
        shape = tuple(data.images.shape[1:])
        # In forward passes, of each run.
        self._costs = [steps_cost(run.attack, self._n_classes, shape) for run in self._runs]
        # Of an image's work, the part that is done before each run.
        self._done_before = np.concatenate([[0], np.cumsum(np.array(self._costs) / sum(self._costs))])
        self._estimate: Estimate | None = None

    def is_valid(self, key: str, record: Record) -> bool:
        """Whether it has these fields, and the broken image is there."""
        names = {attack.name for attack in self._attacks} | ({TRANSFER} if self._elsewhere else set())
        sound = is_index(key, len(self._data)) and all(type(record.get(name)) is bool for name in SanityChecks._fields)
        if not (sound and type(record.get("runs")) is int and 0 <= record["runs"] <= len(self._runs)):
            return False
        if "broken_by" not in record:
            return record.get("not_finite_under") in {None, *names}
        sound = record["broken_by"] in names and type(record.get("predicted")) is int
        sound = sound and 0 <= record["predicted"] < self._n_classes and isinstance(record.get("distance"), float)
        return sound and self._broken.holds(int(key))

    def forget(self, records: Mapping[str, Record]) -> None:
        """Remove all files; those of a killed call have no records."""
        del records
        for name in (_OLDER_FILE, RESULTS_FILE):
            (self._output / name).unlink(missing_ok=True)
        self._broken.forget()

    def older(self) -> Mapping[str, Any] | None:
        """What an earlier release kept."""
        return older_results(self._output / _OLDER_FILE, lambda results: results["images"])

    def is_done(self, key: str, records: Mapping[str, Record]) -> bool:
        """Whether the image is broken, or went through all runs."""
        return key in records and self._has_passed(len(self._runs) - 1, records[key])

    def portion_done(self, record: Record) -> float:
        """Of an image's work."""
        return float(self._done_before[record["runs"]]) if is_robust(record) else 1.0

    def seconds_left(self) -> float | None:
        """Of all runs."""
        return None if self._estimate is None else self._estimate.seconds_left()

    def passes(self, images: Sequence[str], records: Mapping[str, Record], done: Update) -> Iterator[Pass]:
        """A look at the unperturbed images, then each run on those that are still robust."""
        cost = max(row_bytes(self._classifier, self._data.images, run.attack) for run in self._runs)
        rows_of = functools.partial(chunk_rows, row_bytes=cost)
        self._estimate = estimate = self._estimate_of(rows_of)
        for record in filter(None, map(records.get, images)):
            if record["correct"]:
                for position in range(record["runs"]):
                    estimate.learn(position, 1, int(is_robust(record) or position + 1 < record["runs"]))
        rows = rows_of(len(images))
        yield Pass(images, records.__contains__, functools.partial(self._check, done, rows), rows)
        for position, run in enumerate(self._runs):
            # Of all that came so far, be it that they went through it already.
            rows = rows_of(sum(self._has_reached(position, records[key]) for key in images))

            def is_done(key: str, position: int = position) -> bool:
                return self._has_passed(position, records[key])

            def compute(keys: list[str], position: int = position, rows: int = rows) -> Iterator[dict[str, Record]]:
                waiting = collections.Counter(records[key]["runs"] for key in images if is_robust(records[key]))
                estimate.wait([waiting[other] for other in range(len(self._runs))])
                return self._attack(position, rows, keys, records, estimate, done)

            yield Pass(images, is_done, compute, rows, self._name_of(run))

    def _name_of(self, run: Part) -> str:
        """Of the attack that is reported, which may be an ensemble of several under one name."""
        return self._attacks[run.path[0]].name

    def _estimate_of(self, rows_of: functools.partial[int]) -> Estimate:
        phases = []
        for run, cost in zip(self._runs, self._costs, strict=True):
            segments = len(attack_segments(run.attack))
            phases.append(Phase(self._name_of(run), segments, cost / segments))
        return Estimate(phases, rows_of, len(lanes()))

    def _has_reached(self, position: int, record: Record) -> bool:
        """Whether an image was robust before a run."""
        return record["correct"] and (record["runs"] > position or is_robust(record))

    def _has_passed(self, position: int, record: Record) -> bool:
        """Whether a run has nothing to do with an image any more."""
        return record["runs"] > position or not is_robust(record)

    def _check(self, done: Update, rows: int, keys: list[str]) -> Iterator[dict[str, Record]]:
        block = [int(key) for key in keys]
        drawn = np.array(block), jax.random.key(self._seed)
        checks = sanity_checks(self._classifier, *load_block(self._data, block), rows, *drawn)
        found = {}
        for key, *fields in zip(keys, *checks, strict=True):
            found[key] = {name: bool(value) for name, value in zip(checks._fields, fields, strict=True)} | {"runs": 0}
        found |= self._transferred(found, rows)
        for record in found.values():
            done(self.portion_done(record), spared=True)
        yield found

    def _transferred(self, found: Mapping[str, Record], rows: int) -> dict[str, Record]:
        """Of images that are classified correctly, the records of those that an image broken elsewhere breaks."""
        if self._elsewhere is None:
            return {}
        block = [int(key) for key, record in found.items() if record["correct"] and self._elsewhere.holds(int(key))]
        if not block:
            return {}
        candidates = np.stack([self._elsewhere.load(index) for index in block])
        # Knows all norms, and is not run.
        ball = APGD(eps=self._threat.eps, norm=self._threat.norm, stay_in_range=self._threat.stay_in_range)
        drawn = jax.random.key(self._seed)
        looked = transferred(
            self._classifier, *load_block(self._data, block), candidates, np.array(block), ball, drawn, rows
        )
        records = {}
        for index, success, predicted, distance, adversarial, _ in zip(block, *looked, strict=True):
            if success:
                self._broken.keep(index, adversarial)
                told = {"broken_by": TRANSFER, "predicted": int(predicted), "distance": float(distance)}
                records[str(index)] = found[str(index)] | told
        return records

    def _attack(
        self,
        position: int,
        rows: int,
        keys: list[str],
        records: Mapping[str, Record],
        estimate: Estimate,
        done: Update,
    ) -> Iterator[dict[str, Record]]:
        run, block = self._runs[position], [int(key) for key in keys]
        name = self._name_of(run)
        before, after = float(self._done_before[position]), float(self._done_before[position + 1])

        def on_progress(images_done: float) -> None:
            estimate.segment()
            done((after - before) * images_done)

        def on_spared(images_spared: float) -> None:
            estimate.skip()
            done((after - before) * images_spared, spared=True)

        estimate.begin(position, len(block), rows)
        key = jax.random.key(self._seed)
        for places, attacked in run_attack(
            self._classifier, *load_block(self._data, block), np.array(block), run, key, rows, on_progress, on_spared
        ):
            found = {}
            for place, success, predicted, distance, adversarial, finite in zip(places, *attacked, strict=True):
                record = records[keys[place]] | {"runs": position + 1}
                if not finite:
                    record["not_finite_under"] = name
                if success:
                    # Before its record, which must never be of an image that is not there.
                    self._broken.keep(block[place], adversarial)
                    record |= {"broken_by": name, "predicted": int(predicted), "distance": float(distance)}
                    done(1 - after, spared=True)
                found[keys[place]] = record
            estimate.go_on(position, len(found), sum(map(is_robust, found.values())))
            yield found

    def summarise(self, records: Mapping[str, Record], seconds: Mapping[str, float]) -> str:
        """Write `robustness.json`, and pictures if they are wanted; returns a table by attack, and warnings."""
        wanted = [records[key] for key in self.images]
        results = self.results_head({**self.settings, "n_images": len(wanted)})
        text = write_robust_accuracy(
            self._output,
            results | {"data": self._data.source},
            self._threat,
            self._attacks,
            wanted,
            seconds,
            self._n_classes,
            math.prod(self._data.images.shape[1:]),
            started_elsewhere=self._elsewhere is not None,
        )
        text += f"\nresults: {self._output / RESULTS_FILE}"
        if self._pictures:
            n_pictures = self._broken.write_pictures(wanted)
            text += f", {n_pictures} pictures: {self._output / PICTURES_FOLDER}"
        return text


def _told_elsewhere(folder: Path, data: ImageSet) -> dict[str, Any]:
    """What other results say of themselves; whichever images they broke, so that more of them are another start.

    Raises:
        UserError: they cannot be read, or are of other images.
    """
    results = read_json(folder / RESULTS_FILE)
    settings, broken = results.get("settings"), results.get("broken_by")
    if (
        not isinstance(settings, dict)
        or not isinstance(broken, list)
        or settings.get("data_sha256") != data.fingerprint
    ):
        raise UserError(f"expected results of the same images in {folder / RESULTS_FILE}, got others")
    return {"model": str(settings.get("model")), "results": fingerprint({"settings": settings, "broken": broken})[:16]}
