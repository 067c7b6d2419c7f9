"""Accuracy and loss of a network, from what it says of each image."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advx_jax.analysis.accuracy import predict
from advx_jax.analysis.chunks import chunk_rows
from advx_jax.analysis.row_cost import row_bytes
from advx_jax.analysis.soundness import check_fit
from advx_jax.data.image_set import ImageSet, unit_images
from advx_jax.errors import UserError
from advx_jax.files import check_output_file
from advx_jax.networks.registry import NamedModel
from advx_jax.progress import Update
from advx_jax.reports.results_json import check_replaceable, network_record
from advx_jax.runs.measurement import Measurement, Pass
from advx_jax.runs.record_checks import is_index, is_prediction
from advx_jax.runs.store import Record


class Evaluation(Measurement[dict[str, Any]]):
    """The class and the loss of each of the first images.

    Args:
        network: to measure.
        data: labelled images.
        n_images: how many, from the first.
        output: the file of the results (`results_path`), beside which records are kept; None to keep nothing.

    Raises:
        UserError: network and images do not fit.
    """

    command = "evaluate"
    own_folder = False

    def __init__(self, network: NamedModel, data: ImageSet, n_images: int, output: Path | None = None) -> None:
        check_fit(network.classifier, data)
        self._network, self._data = network, data
        self.path = output and _records_path(output)
        self._about_network = network_record(network)
        # What keeps nothing needs no digest of all images.
        self.settings = self._about_network | ({"data_sha256": data.fingerprint} if output else {})
        self.images = [str(index) for index in range(n_images)]

    def is_valid(self, key: str, record: Record) -> bool:
        """Whether it is an index, with a class and a loss."""
        return is_index(key, len(self._data)) and is_prediction(record, self._network.classifier.n_classes)

    def passes(self, images: Sequence[str], records: Mapping[str, Record], done: Update) -> Iterator[Pass]:
        """Classify them."""
        rows = chunk_rows(len(images), row_bytes(self._network.classifier, self._data.images))

        def compute(keys: list[str]) -> Iterator[dict[str, Record]]:
            block = [int(key) for key in keys]
            predictions = predict(self._network.classifier, unit_images(self._data.images[block]), done)
            losses = predictions.losses(self._data.labels[block])
            yield {
                key: {"predicted": predicted, "loss": loss if math.isfinite(loss) else None}
                for key, predicted, loss in zip(keys, predictions.classes.tolist(), losses.tolist(), strict=True)
            }

        yield Pass(images, records.__contains__, compute, rows)

    def summarise(self, records: Mapping[str, Record], seconds: Mapping[str, float]) -> dict[str, Any]:
        """A head and `accuracy`, `loss` (mean cross-entropy), `correct`, `n_images`; writes nothing."""
        del seconds
        n_images = len(self.images)
        predicted = np.array([records[key]["predicted"] for key in self.images])
        losses = np.array([_loss(records[key]) for key in self.images], np.float32)
        right = predicted == self._data.labels[:n_images]
        settings = self._about_network | {"data": self._data.source, "n_images": n_images}
        return self.results_head(settings) | {
            "accuracy": float(np.mean(right)) if n_images else math.nan,
            "loss": float(np.mean(losses, dtype=np.float64)) if n_images else math.nan,
            "correct": int(right.sum()),
            "n_images": n_images,
        }


def results_path(output: Path) -> Path:
    """Make sure, before any work, that results and records can be written, and take no other file's place.

    Args:
        output: as asked for.

    Returns:
        Where the results go: a link stays one, and what it leads to is written.

    Raises:
        UserError: they cannot, or there is a file that this command has not written.
    """
    path = output.resolve() if output.is_symlink() else output
    if not path.name:
        raise UserError(f"expected the name of a file for the results, got {output}")
    if path.suffix == _records_path(path).suffix:
        raise UserError(f"expected a name as {output.with_suffix('.json')} for the results, got {output}")
    check_output_file(path)
    for file in (path, _records_path(path)):
        check_replaceable(file, Evaluation.command)
    return path


def _records_path(output: Path) -> Path:
    return output.with_suffix(".jsonl")


def _loss(record: Record) -> float:
    """A loss that is not finite is null; it is infinite where the network has a class for the image all the same."""
    if record["loss"] is not None:
        return float(record["loss"])
    return math.inf if record["predicted"] >= 0 else math.nan
