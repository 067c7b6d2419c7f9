"""Accuracy-robustness area as files: JSON and a curve; distances are kept as they come."""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from advx_jax.analysis.robustness_area import (
    KINDS,
    Distances,
    RobustnessCurve,
    minimum_norm_distances,
    robustness_curve,
    starts_inside,
)
from advx_jax.analysis.soundness import check_fit
from advx_jax.analysis.subset import published_subset
from advx_jax.analysis.workers import chunk_rows, lanes
from advx_jax.attacks import Attack, example_keys
from advx_jax.data.image_set import ImageSet, unit_images
from advx_jax.files import check_output_folder
from advx_jax.networks.registry import ResolvedNetwork
from advx_jax.reports.ara_curve import area_in_words, write_ara_curve
from advx_jax.reports.console import table
from advx_jax.reports.earlier_checks import is_distance, is_index
from advx_jax.reports.results_json import attack_record, head, older_results, write_json
from advx_jax.runs.progress import Update, progress
from advx_jax.runs.store import Record, Rules, Store
from advx_jax.runs.work import complete

_FORMAT = 1
RESULTS_FILE = "ara.json"
STORE_FILE = "distances.jsonl"
# What earlier releases kept instead.
_OLDER_FILE = "distances.json"
CURVE_FILE = "ara.png"
# Images on the [0,1] scale at a time: four times the size of their pixels, so never all of them.
_BLOCK = 1024


def report_robustness(
    network: ResolvedNetwork, data: ImageSet, n_images: int, attack: Attack, output: Path, overwrite: bool
) -> str:
    """Measure attack and BTR ARA on the published subset, and write what came out.

    Distances are added to `distances.jsonl` as chunks of images are finished; a later call with
    the same settings measures only what is missing, for fewer or more images too, and several at once share it.

    Returns:
        A table of the two areas.

    Raises:
        UserError: network and images do not fit, or `output` holds results of other settings and must not be
            overwritten.
    """
    check_fit(network.classifier, data)
    check_output_folder(output)
    indices = published_subset(n_images, len(data)).tolist()
    depends_on = attack_record(network, attack.settings()) | {"data_sha256": data.fingerprint}
    older = output / _OLDER_FILE
    rules = Rules(
        functools.partial(_accepts, len(data)),
        lambda _: older.unlink(missing_ok=True),
        lambda: older_results(older, _older_records),
    )
    with Store(output / STORE_FILE, head("ara", _FORMAT, depends_on), overwrite, rules) as store:
        with progress(len(KINDS) * len(indices), "image", "ara", _n_done(store, indices)) as update:
            for kind in KINDS:
                _measure(kind, network, data, indices, attack, store, update)
        with store.final():
            return _write_results(network, data, indices, attack, depends_on, store.records, output)


def _measure(
    kind: str,
    network: ResolvedNetwork,
    data: ImageSet,
    indices: list[int],
    attack: Attack,
    store: Store,
    update: Update,
) -> None:
    """Measure the distances that the store has not."""
    keys = [_key(kind, index) for index in indices]
    if all(key in store.records for key in keys):
        return
    attack = attack.until(KINDS[kind])

    def load(block: list[int]) -> tuple[np.ndarray, np.ndarray]:
        return unit_images(data.images[block]), data.labels[block].astype(np.int32)

    # Of all images, not of those that are left: in chunks of another size, numbers would round otherwise.
    attacked: list[str] = []
    for begin in range(0, len(indices), _BLOCK):
        inside, finite = starts_inside(network.classifier, *load(indices[begin : begin + _BLOCK]), attack.criterion)
        attacked += [keys[begin + place] for place in np.flatnonzero(inside & finite)]
    rows = chunk_rows(len(attacked))

    def measure(mine: list[str]) -> Iterator[dict[str, Record]]:
        places_in_data = [int(key.partition("/")[2]) for key in mine]
        arrays, draws = load(places_in_data), example_keys(None, jnp.asarray(places_in_data))
        spare = functools.partial(update, spared=True)
        for places, part in minimum_norm_distances(network.classifier, *arrays, attack, draws, update, spare, rows):
            yield {mine[place]: _record(fields) for place, fields in zip(places, zip(*part, strict=True), strict=True)}

    def done_elsewhere(others: list[str]) -> None:
        update(len(others), spared=True)

    # Those that need no attack first, so that what is left fills its chunks.
    for part in (sorted(set(keys) - set(attacked)), attacked):
        complete(store, part, store.records.__contains__, measure, rows * len(lanes()), done_elsewhere)


def _key(kind: str, index: int) -> str:
    return f"{kind}/{index}"


def _n_done(store: Store, indices: list[int]) -> int:
    return sum(_key(kind, index) in store.records for kind in KINDS for index in indices)


def _record(fields: Iterable[Any]) -> Record:
    """The fields of `Distances` of an image. A distance that is not finite is null; what it is, the flags say."""
    record = {name: field.item() for name, field in zip(Distances._fields, fields, strict=True)}
    if not math.isfinite(record["distances"]):
        record["distances"] = None
    return record


def _accepts(n_images: int, key: str, record: Record) -> bool:
    kind, _, index = key.partition("/")
    sound = kind in KINDS and is_index(index, n_images) and list(record) == list(Distances._fields)
    return sound and is_distance(*record.values())


def _older_records(results: dict[str, Any]) -> dict[str, Record]:
    return {
        _key(kind, int(index)): dict(zip(Distances._fields, row, strict=True))
        for kind, rows in results["measured"].items()
        for index, row in rows.items()
    }


def _write_results(
    network: ResolvedNetwork,
    data: ImageSet,
    indices: list[int],
    attack: Attack,
    depends_on: dict[str, Any],
    records: Mapping[str, Record],
    output: Path,
) -> str:
    results = head("ara", _FORMAT, depends_on | {"n_images": len(indices)}) | {"data": data.source}
    results["gradient_evaluations"] = attack.evaluations
    n_classes = network.classifier.architecture.n_classes
    curves = {}
    for kind in KINDS:
        distances = _distances([records[_key(kind, index)] for index in indices])
        usable = distances.measured()
        curves[kind] = curve = robustness_curve(distances.distances, n_classes)
        results[kind] = {
            "ara": curve.area,
            "ara_at_least": curve.at_least,
            "n_classes": n_classes,
            "n_images": len(indices),
            "n_misclassified_at_start": int((usable & (distances.distances == 0)).sum()),
            "n_never_crossed": curve.n_uncrossed,
            "n_not_finite": curve.n_left_out,
            "n_late": int((usable & ~_in_time(distances, attack)).sum()),
            "indices": indices,
            "distances": distances.distances,
            "first_ok": distances.first_ok,
            "crossed": distances.crossed,
            "finite": distances.finite,
            "valid": usable & _in_time(distances, attack),
        }
    write_json(output / RESULTS_FILE, results)
    title = f"{network.provenance.name}: accuracy under attack, {len(indices)} test images"
    write_ara_curve(output / CURVE_FILE, curves, title, n_classes, math.prod(data.images.shape[1:]))
    return _verdict(results, curves, output)


def _distances(records: Sequence[Record]) -> Distances:
    rms, first_ok, crossed, finite = (list(column) for column in zip(*(r.values() for r in records), strict=True))
    known = [math.nan if value is None else value for value in rms]
    return Distances.found(np.array(known), np.array(first_ok), np.array(crossed), np.array(finite))


def _in_time(distances: Distances, attack: Attack) -> np.ndarray:
    """Crossed early enough to leave half of the steps for shrinking, as the public code demands."""
    return distances.first_ok <= attack.n_steps // 2


def _verdict(results: dict[str, Any], curves: Mapping[str, RobustnessCurve], output: Path) -> str:
    names = {"attack": "attack (misclassified)", "btr": "BTR (no better than random)"}
    rows = [
        (
            names[kind],
            area_in_words(curves[kind]),
            results[kind]["n_images"],
            results[kind]["n_misclassified_at_start"],
            results[kind]["n_late"],
            results[kind]["n_never_crossed"],
            results[kind]["n_not_finite"],
        )
        for kind in KINDS
    ]
    header = ("until", "ARA", "images", "at start", "late", "never crossed", "left out")
    lines = [table(header, rows)]
    if any(math.isinf(curve.area) for curve in curves.values()):
        lines.append(
            "≥: more than a share of 1/K of the images was never crossed, so the area has no end and is given up to "
            "the largest distance found (more --steps, or another --attack, may cross them)"
        )
    if any(curve.n_left_out for curve in curves.values()):
        lines.append("left out: images with infinite or NaN logits on the way, which have no distance")
    lines.append(f"at most {results['gradient_evaluations']} gradient evaluations an image, for each area")
    lines.append(f"results: {output / RESULTS_FILE}, curve: {output / CURVE_FILE}")
    return "\n".join(lines)
