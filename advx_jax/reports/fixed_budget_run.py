"""A measurement with a fixed budget, written to a file as it goes on, so that it can be taken up again."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from advx_jax.analysis.fixed_budget import attack_standing, first_look, good_rows, n_runs
from advx_jax.attacks.autoattack import Stage
from advx_jax.attacks.budget import Budget
from advx_jax.attacks.projections import Norm
from advx_jax.data.image_set import ImageSet, unit_images
from advx_jax.networks.registry import ResolvedNetwork
from advx_jax.reports.fixed_budget_files import BrokenImages
from advx_jax.reports.kept_work import earlier_results
from advx_jax.reports.progress import Update, progress
from advx_jax.reports.results_json import head, write_json

FORMAT = 1
IMAGES_FILE = "images.json"
# Images on the [0,1] scale at a time: four times the size of their pixels, so never all of them.
_BLOCK = 1024

Record = dict[str, Any]
"""Of an image: the fields of `FirstLook`; `runs`, how many runs it went through; `broken_by`, `predicted`
and `distance` once it is broken; `not_finite_under`, the last attack that met an infinite or NaN logit."""


class Plan(NamedTuple):
    """What is to be measured.

    Attributes:
        attack: name of the whole.
        stages: its attacks, in their order.
        eps: radius in the norm, on the [0,1] scale.
        norm: "L2" or "Linf".
        seed: of all random draws.
        stay_in_range: keep perturbed images in [0,1].
        n_images: how many test images, from the first.
    """

    attack: str
    stages: tuple[Stage, ...]
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
            "steps": {stage.name: stage.steps for stage in self.stages},
            "restarts": {stage.name: stage.restarts for stage in self.stages},
            "norm": self.norm,
            "eps": self.eps,
            "seed": self.seed,
            "stay_in_range": self.stay_in_range,
        }


class _Run(NamedTuple):
    """One run of one attack, and where it is in the order of all."""

    position: int
    number: int
    stage: Stage
    run: int


class Measured(NamedTuple):
    """What is known of the images.

    Attributes:
        records: of each image, in their order.
        seconds: that each attack took, by its name, over all calls.
    """

    records: list[Record]
    seconds: dict[str, float]


def measure(
    network: ResolvedNetwork, data: ImageSet, plan: Plan, output: Path, files: BrokenImages, overwrite: bool
) -> Measured:
    """Attack the first test images, each attack only those still standing.

    What became of each image is written to `images.json`, and broken images to their files, as chunks
    are finished; a later call goes on from there, for fewer or more images too.

    Raises:
        UserError: `output` holds results of other settings and must not be overwritten.
    """
    kept = head("robustness", FORMAT, plan.depends_on(network, data)) | {"seconds": {}, "images": {}}
    earlier = earlier_results(output / IMAGES_FILE, kept, overwrite)
    if earlier is None:
        # In this order: a record must never be of an image that is gone.
        write_json(output / IMAGES_FILE, kept)
        files.forget()
    else:
        kept |= {"seconds": earlier["seconds"], "images": earlier["images"]}
    return _Measurement(network, data, plan, output / IMAGES_FILE, files, kept).measure()


class _Measurement:
    def __init__(
        self,
        network: ResolvedNetwork,
        data: ImageSet,
        plan: Plan,
        path: Path,
        files: BrokenImages,
        kept: dict[str, Any],
    ) -> None:
        self._classifier, self._data, self._plan = network.classifier, data, plan
        self._path, self._files, self._kept = path, files, kept
        self._records: dict[str, Record] = kept["images"]
        n_classes = network.classifier.architecture.n_classes
        each = [
            (number, stage, run) for number, stage in enumerate(plan.stages) for run in range(n_runs(stage, n_classes))
        ]
        self._runs = [_Run(position, *fields) for position, fields in enumerate(each)]
        costs = np.array([run.stage.steps * run.stage.cost for run in self._runs], float)
        # Of an image's work, the part that is done before each run.
        self._before = np.concatenate([[0], np.cumsum(costs / costs.sum())])

    def measure(self) -> Measured:
        indices = range(self._plan.n_images)
        done = sum(self._share(self._records.get(str(index))) for index in indices)
        with progress(self._plan.n_images, "image", "robustness", done) as update:
            for block in _blocks([index for index in indices if str(index) not in self._records]):
                self._look(block, update)
            for run in self._runs:
                due = [index for index in indices if self._is_due(index, run)]
                rows = good_rows(len(due), self._plan.n_images)
                for block in _blocks(due):
                    self._attack(block, run, rows, update)
        return Measured([self._records[str(index)] for index in indices], self._kept["seconds"])

    def _share(self, record: Record | None) -> float:
        """The part of an image's work that is done."""
        if record is None:
            return 0.0
        return float(self._before[record["runs"]]) if stands(record) else 1.0

    def _is_due(self, index: int, run: _Run) -> bool:
        record = self._records[str(index)]
        return stands(record) and record["runs"] == run.position

    def _load(self, block: list[int]) -> tuple[np.ndarray, np.ndarray]:
        return unit_images(self._data.images[block]), self._data.labels[block].astype(np.int32)

    def _look(self, block: list[int], update: Update) -> None:
        seen = first_look(self._classifier, *self._load(block))
        for index, *fields in zip(block, *seen, strict=True):
            record = {name: bool(value) for name, value in zip(seen._fields, fields, strict=True)} | {"runs": 0}
            self._records[str(index)] = record
            update(self._share(record), spared=True)
        write_json(self._path, self._kept)

    def _attack(self, block: list[int], run: _Run, rows: int, update: Update) -> None:
        plan, stage, seconds = self._plan, run.stage, self._kept["seconds"]
        budget = Budget(plan.eps, plan.norm, stage.steps, plan.stay_in_range)
        cost = float(self._before[run.position + 1] - self._before[run.position])
        rest = float(1 - self._before[run.position + 1])
        images, labels = self._load(block)
        since = time.monotonic()
        for places, attacked in attack_standing(
            self._classifier,
            images,
            labels,
            np.array(block),
            stage,
            run.number,
            run.run,
            budget,
            plan.seed,
            rows,
            lambda images_done: update(cost * images_done),
            lambda images_spared: update(cost * images_spared, spared=True),
        ):
            for place, broken, predicted, distance, adversarial, finite in zip(places, *attacked, strict=True):
                index = block[place]
                record = self._records[str(index)]
                record["runs"] = run.position + 1
                if not finite:
                    record["not_finite_under"] = stage.name
                if broken:
                    self._files.keep(index, adversarial)
                    record |= {"broken_by": stage.name, "predicted": int(predicted), "distance": float(distance)}
                    update(rest, spared=True)
            now = time.monotonic()
            seconds[stage.name] = seconds.get(stage.name, 0.0) + now - since
            since = now
            write_json(self._path, self._kept)


def stands(record: Record) -> bool:
    """Whether an image is classified correctly and no attack broke it so far."""
    return record["correct"] and "broken_by" not in record


def _blocks(indices: list[int]) -> Iterator[list[int]]:
    return (indices[begin : begin + _BLOCK] for begin in range(0, len(indices), _BLOCK))
