"""Explanations by several methods, scored by several metrics: each method goes through all images."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advx_jax.analysis.accuracy import predict
from advx_jax.analysis.attribution import AdversarialExplanation, Attribution, ExpectedGradients
from advx_jax.analysis.chunks import chunk_rows
from advx_jax.analysis.faithfulness import CounterfactualQuality, Metric
from advx_jax.analysis.faithfulness.scoring import counterfactuals, passes, row_cost, scored
from advx_jax.analysis.row_cost import row_bytes
from advx_jax.analysis.soundness import check_fit
from advx_jax.analysis.workers import lanes
from advx_jax.attacks.base import example_keys
from advx_jax.data.image_set import ImageSet, unit_images
from advx_jax.errors import UserError
from advx_jax.files import check_output_folder
from advx_jax.networks.registry import NamedModel
from advx_jax.progress import Update
from advx_jax.reports.faithfulness_files import RESULTS_FILE, write_faithfulness
from advx_jax.reports.results_json import network_record, plain
from advx_jax.runs.measurement import Measurement, Pass
from advx_jax.runs.record_checks import is_index, is_scored
from advx_jax.runs.step_times import StepTimes
from advx_jax.runs.store import Record

TARGETS = ("predicted", "label")
"""For which class an image is explained: the network's top class, or the real one."""

# Of the set, evenly spread, where a method needs images to compare with.
_BACKGROUND = 32


class Faithfulness(Measurement[str]):
    """Scores of each of the first images' explanations.

    A record has the classes `target` and `second`, the likeliest other; `methods`, by method and metric a number, null
    where there is none; and `counterfactuals`, by method of adversarial explanation the fields of
    `CounterfactualQuality` of the explanation towards `second`.

    Args:
        network: to explain.
        data: labelled images.
        n_images: how many, from the first.
        methods: by the names that they have in the results.
        metrics: likewise.
        target: one of `TARGETS`.
        seed: of all random draws.
        output: folder for the results.
        asked_for: methods and metrics by whose names the caller insists on them; others are left out where they cannot
            work with this network, and `notes` tell of it.
        beside: results of earlier calls, such as of other networks, to show with these.

    Attributes:
        notes: what was left out, and why, in lines.

    Raises:
        UserError: network, images, methods and metrics do not fit, or nothing can be written to `output`.
    """

    command = "faithfulness"
    estimates = True

    def __init__(
        self,
        network: NamedModel,
        data: ImageSet,
        n_images: int,
        methods: Mapping[str, Attribution],
        metrics: Mapping[str, Metric],
        target: str,
        seed: int,
        output: Path,
        asked_for: frozenset[str] = frozenset(),
        beside: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        check_fit(network.classifier, data)
        check_output_folder(output)
        if network.classifier.n_classes < 2:
            raise UserError("expected a network of at least two classes, got one")
        self._classifier, self._data, self._output, self._target = network.classifier, data, output, target
        self._seed, self._beside = seed, beside
        self.notes: list[str] = []
        methods = {name: self._with_background(method) for name, method in methods.items()}
        self._choose(methods, metrics, asked_for)
        shape = tuple(data.images.shape[1:])
        self._costs = {
            name: passes(self._classifier, shape, method, self._metrics) for name, method in self._methods.items()
        }
        self.path, self.results = output / "faithfulness.jsonl", output / RESULTS_FILE
        self.images = [str(index) for index in range(n_images)]
        self.settings = {
            **network_record(network),
            "data_sha256": data.fingerprint,
            "target": target,
            "seed": seed,
            "methods": {name: method.settings() for name, method in self._methods.items()},
            "metrics": {name: metric.settings() for name, metric in self._metrics.items()},
        }
        steps = {f"{name}/{step}": float(cost) for name, costs in self._costs.items() for step, cost in costs.items()}
        self._times = StepTimes(steps, len(lanes()))

    def cost_in_words(self) -> str:
        """What it will cost, and what was left out, in lines."""
        each = sum(sum(costs.values()) for costs in self._costs.values())
        dearest = max(self._costs, key=lambda name: sum(self._costs[name].values()))
        return "\n".join(
            [
                *self.notes,
                f"{len(self._methods)} methods, {len(self._metrics)} metrics: {each:,} passes through the network an "
                f"image, a gradient as three; {each * len(self.images):,} for all {len(self.images)} images. "
                f"Most for {dearest}: {sum(self._costs[dearest].values()):,} an image",
            ]
        )

    def is_valid(self, key: str, record: Record) -> bool:
        """Whether it is an index, with scores of these methods by these metrics."""
        if not is_index(key, len(self._data)):
            return False
        judged = [name for name, method in self._methods.items() if isinstance(method, AdversarialExplanation)]
        n_classes = self._classifier.n_classes
        return is_scored(record, n_classes, self._methods, self._metrics, judged, CounterfactualQuality._fields)

    def is_done(self, key: str, records: Mapping[str, Record]) -> bool:
        """Whether all methods have explained it."""
        return key in records and all(map(functools.partial(_has, records[key]), self._methods))

    def portion_done(self, record: Record) -> float:
        """Of an image's work, by cost."""
        return sum((self._portion(name) for name in self._methods if _has(record, name)), 0.0)

    def seconds_left(self) -> float | None:
        """Of all methods."""
        return self._times.seconds_left()

    def passes(self, images: Sequence[str], records: Mapping[str, Record], done: Update) -> Iterator[Pass]:
        """A look at the images, then each method on all of them."""
        rows = chunk_rows(len(images), row_bytes(self._classifier, self._data.images))
        yield Pass(images, records.__contains__, self._look, rows)
        for name in self._methods:
            rows = chunk_rows(len(images), self._row_bytes[name])

            def is_done(key: str, name: str = name) -> bool:
                return _has(records[key], name)

            def compute(keys: list[str], name: str = name, rows: int = rows) -> Iterator[dict[str, Record]]:
                self._expect(images, records)
                return self._score(name, rows, keys, records, done)

            yield Pass(images, is_done, compute, rows, name)

    def summarise(self, records: Mapping[str, Record], seconds: Mapping[str, float]) -> str:
        """Write `faithfulness.json` and the figure; returns tables."""
        wanted = [records[key] for key in self.images]
        results = self.results_head({**self.settings, "n_images": len(wanted)})
        results |= {"data": self._data.source, "passes": self._costs}
        labels = self._data.labels[: len(wanted)].tolist()
        better = {name: metric.higher_is_better for name, metric in self._metrics.items()}
        return write_faithfulness(self._output, results, wanted, labels, better, seconds, self._beside)

    def _with_background(self, method: Attribution) -> Attribution:
        """A method with images to compare with, where it needs such and has none."""
        if not isinstance(method, ExpectedGradients) or method.background is not None:
            return method
        places = np.linspace(0, len(self._data) - 1, min(_BACKGROUND, len(self._data))).astype(int)
        return method.with_settings(background=unit_images(self._data.images[np.unique(places)]))

    def _choose(
        self, methods: Mapping[str, Attribution], metrics: Mapping[str, Metric], asked_for: frozenset[str]
    ) -> None:
        """Keep what can work with the network."""
        self._methods, self._metrics = dict(methods), dict(metrics)
        shape = tuple(self._data.images.shape[1:])
        for name, metric in metrics.items():
            try:
                # Whatever cannot be told from the model alone is told below.
                metric.cost(self._classifier, shape)
            except UserError as error:
                self._leave_out(self._metrics, name, error, asked_for)
        self._row_bytes = {}
        for name, method in methods.items():
            try:
                cost = row_cost(self._classifier, self._data.images, method, list(self._metrics.values()))
                self._row_bytes[name] = cost
            except UserError as error:
                self._leave_out(self._methods, name, error, asked_for)

    def _leave_out(self, chosen: dict[str, Any], name: str, error: UserError, asked_for: frozenset[str]) -> None:
        if name in asked_for or len(chosen) == 1:
            raise UserError(f"{name}: {error}") from error
        del chosen[name]
        self.notes.append(f"{name} is left out: {error}")

    def _portion(self, name: str) -> float:
        return sum(self._costs[name].values()) / max(1, sum(sum(costs.values()) for costs in self._costs.values()))

    def _expect(self, images: Sequence[str], records: Mapping[str, Record]) -> None:
        """Tell how many images are still to go through each step."""
        for name, costs in self._costs.items():
            left = sum(not _has(records[key], name) for key in images)
            for step in costs:
                self._times.wait(f"{name}/{step}", left)

    def _load(self, block: list[int]) -> tuple[np.ndarray, np.ndarray]:
        keys = example_keys(jax.random.key(self._seed), jnp.asarray(block))
        return unit_images(self._data.images[block]), np.asarray(jax.random.key_data(keys))

    def _look(self, keys: list[str]) -> Iterator[dict[str, Record]]:
        block = [int(key) for key in keys]
        logits = predict(self._classifier, unit_images(self._data.images[block])).logits
        order = np.argsort(-logits, axis=1, kind="stable")
        found = {}
        for key, index, (first, second) in zip(keys, block, order[:, :2].tolist(), strict=True):
            target = first if self._target == "predicted" else int(self._data.labels[index])
            found[key] = {
                "target": target,
                "second": second if target == first else first,
                "predicted": first,
                "methods": {},
                "counterfactuals": {},
            }
        yield found

    def _score(
        self, name: str, rows: int, keys: list[str], records: Mapping[str, Record], done: Update
    ) -> Iterator[dict[str, Record]]:
        method, costs = self._methods[name], self._costs[name]
        x, key_data = self._load([int(key) for key in keys])
        towards, others = (np.array([records[key][which] for key in keys], np.int32) for which in ("target", "second"))
        portion, total = self._portion(name), max(1, sum(costs.values()))

        def told(step: str, rows: int, count: int, seconds: float) -> None:
            self._times.took(f"{name}/{step}", rows, count, seconds)
            done(portion * count * costs[step] / total)

        judged: dict[str, dict[str, Any]] = {}
        if isinstance(method, AdversarialExplanation):
            for places, quality in counterfactuals(self._classifier, x, others, key_data, method, rows, told):
                fields = zip(*quality, strict=True)
                judged |= {
                    keys[place]: plain(dict(zip(quality._fields, (one.item() for one in values), strict=True)))
                    for place, values in zip(places, fields, strict=True)
                }
        for places, scores in scored(self._classifier, x, towards, key_data, method, self._metrics, rows, told):
            found = {}
            for row, place in enumerate(places):
                record = records[keys[place]]
                numbers = plain({metric: float(values[row]) for metric, values in scores.items()})
                found[keys[place]] = record | {"methods": record["methods"] | {name: numbers}}
                if keys[place] in judged:
                    found[keys[place]]["counterfactuals"] = record["counterfactuals"] | {name: judged[keys[place]]}
            yield found


def _has(record: Record, name: str) -> bool:
    return name in record["methods"]
