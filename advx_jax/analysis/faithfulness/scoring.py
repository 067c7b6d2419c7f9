"""Many images explained by several methods and scored by several metrics, on all devices of this machine."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt32

from advx_jax.analysis.attribution.adversarial import AdversarialExplanation
from advx_jax.analysis.attribution.base import Attribution, Attributions, as_attribution
from advx_jax.analysis.attribution.many_images import attribution_row_bytes
from advx_jax.analysis.attribution.named import find_method
from advx_jax.analysis.batches import map_batches
from advx_jax.analysis.chunks import chunk_rows
from advx_jax.analysis.faithfulness.base import Metric, checked_attributions, measured_values
from advx_jax.analysis.faithfulness.counterfactual import CounterfactualQuality, quality
from advx_jax.analysis.faithfulness.named import find_metric
from advx_jax.analysis.row_cost import row_bytes
from advx_jax.analysis.soundness import prepared
from advx_jax.analysis.workers import Worker
from advx_jax.attacks.arrays import Images, Keys, Labels
from advx_jax.attacks.base import Model, example_keys
from advx_jax.attacks.checks import ImagesLike, LabelsLike, checked_labels
from advx_jax.errors import UserError
from advx_jax.networks.pytrees import as_pytree
from advx_jax.progress import call_progress

Scores = dict[str, Float[np.ndarray, " n"]]
"""By the metric's name, a number for each image; NaN where it is not defined."""

KeyData = UInt32[np.ndarray, "n words"]
"""Keys as numbers, which can be cut into chunks."""

Told = Callable[[str, int, int, float], None]
"""Is told of each step: its name, the images of the chunk, how many of them are no padding, and its seconds."""

ATTRIBUTION, COUNTERFACTUAL = "attribution", "counterfactual"
"""Names of the steps that are no metrics."""

_Named = TypeVar("_Named", Attribution, Metric)


def score_attributions(
    model: Model,
    images: ImagesLike,
    targets: LabelsLike,
    methods: Sequence[str | Attribution] | Mapping[str, Attribution],
    metrics: Sequence[str | Metric] | Mapping[str, Metric],
    key: Key[Array, "..."] | None = None,
    progress: bool | None = None,
) -> dict[str, Scores]:
    """Score attributions of images by metrics of faithfulness, stability, sparseness and sanity.

    No image's numbers depend on another's, nor on how many are computed at once. Memory is that of one gradient of a
    chunk, whatever the number of steps, samples and subsets. `bootstrap_interval` gives means and their intervals.

    Args:
        model: images to logits, in evaluation mode.
        images: on the [0,1] scale, (n, height, width, channels).
        targets: the class that each image is explained for, (n,).
        methods: names, attributions, or attributions by names of your own.
        metrics: names, metrics, or metrics by names of your own.
        key: of random draws, folded with each image's place; or a key for each image. `jax.random.key(0)` if None.
        progress: show a bar; None for in a notebook only.

    Returns:
        By method, by metric: a number for each image, (n,); NaN where it is not defined.

    Raises:
        UserError: model, images, targets, methods or metrics are none to work with, or do not go together.
    """
    chosen = by_name(methods, find_method, "methods")
    measures = by_name(metrics, find_metric, "metrics")
    x, _, n_classes = prepared(model, images)
    if len(x) == 0:
        return {name: {metric: np.zeros(0, np.float32) for metric in measures} for name in chosen}
    if x.ndim != 4:
        raise UserError(f"expected images of shape (batch, height, width, channels), got {x.shape}")
    y = np.asarray(checked_labels(targets, len(x), n_classes, "target"))
    key_data = np.asarray(jax.random.key_data(example_keys(key, jnp.arange(len(x)))))
    costs = {name: row_cost(model, x, method, measures.values()) for name, method in chosen.items()}
    found = {name: {metric: np.full(len(x), np.nan, np.float32) for metric in measures} for name in chosen}
    with call_progress(len(x), "faithfulness", progress) as update:
        part = 1 / (len(chosen) * (1 + len(measures)))

        def told(step: str, rows: int, count: int, seconds: float) -> None:
            del step, rows, seconds
            update(count * part)

        for name, method in chosen.items():
            rows = chunk_rows(len(x), costs[name])
            for places, scores in scored(model, x, y, key_data, method, measures, rows, told):
                for metric, values in scores.items():
                    found[name][metric][places] = values
    return found


def row_cost(model: Model, images: ImagesLike, method: Attribution, metrics: Sequence[Metric] | Any) -> int:
    """Make sure that a method and metrics can work with a model and images; returns the memory of an image's work.

    Args:
        model: images to logits.
        images: only their shape and type count.
        method: of attribution.
        metrics: to score it.

    Raises:
        UserError: they cannot; before anything is computed.
    """
    model, shape = as_pytree(model), tuple(np.shape(images)[1:])
    as_attribution(method).check(shape)
    most = max(attribution_row_bytes(model, images, method), row_bytes(model, images))
    like = jax.ShapeDtypeStruct((1, *(shape[:-1] if method.is_spatial else shape)), jnp.float32)
    for metric in metrics:
        metric.check(model, shape, method if metric.takes_method else like)
    return most


def passes(
    model: Model, image_shape: tuple[int, ...], method: Attribution, metrics: Mapping[str, Metric]
) -> dict[str, int]:
    """Cost of each step for an image, in passes through the model, where a gradient counts as three.

    Args:
        model: images to logits.
        image_shape: height, width and channels.
        method: of attribution.
        metrics: to score it.

    Returns:
        By the step's name: the attribution, counterfactuals where there are any, and each metric.
    """
    attribution = method.passes(image_shape)
    found = {ATTRIBUTION: attribution}
    if isinstance(method, AdversarialExplanation):
        found[COUNTERFACTUAL] = attribution + 3
    for name, metric in metrics.items():
        cost = metric.cost(model, image_shape)
        found[name] = cost.passes + cost.attributions * attribution
    return found


def scored(
    model: Model,
    images: Float[np.ndarray, "n height width channels"],
    targets: Int[np.ndarray, " n"],
    key_data: KeyData,
    method: Attribution,
    metrics: Mapping[str, Metric],
    rows: int,
    told: Told = lambda *_: None,
) -> Iterator[tuple[Int[np.ndarray, " part"], Scores]]:
    """Explain and score chunks of images, with arguments that have been checked.

    Args:
        model: images to logits.
        images: x, in [0,1].
        targets: a class for each image.
        key_data: of a key for each image.
        method: of attribution.
        metrics: by name.
        rows: of a chunk.
        told: of each step, from several threads.

    Yields:
        Places of images and their scores, in the order in which chunks are finished.
    """
    # Its settings are leaves, so that other values need no compilation.
    whole = jax.tree_util.Partial(_attributed, method)

    def work(worker: Worker, count: int, x: Array, y: Array, key_data: Array) -> dict[str, Array]:
        keys = jax.random.wrap_key_data(key_data)

        def step(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
            since = time.monotonic()
            result = worker.call(function, *arguments)
            told(name, len(x), count, time.monotonic() - since)
            return result

        explained = step(ATTRIBUTION, _attribute, whole, worker.model, x, y, keys)
        checked_attributions(explained, x.shape)
        scores = {}
        for name, metric in metrics.items():
            subject = whole if metric.takes_method else explained
            scores[name] = step(name, measured_values, metric, worker.model, x, y, subject, keys)
        return scores

    yield from map_batches(as_pytree(model), (images, targets, key_data), work, rows)


def counterfactuals(
    model: Model,
    images: Float[np.ndarray, "n height width channels"],
    targets: Int[np.ndarray, " n"],
    key_data: KeyData,
    method: AdversarialExplanation,
    rows: int,
    told: Told = lambda *_: None,
) -> Iterator[tuple[Int[np.ndarray, " part"], CounterfactualQuality]]:
    """Explain chunks of images towards other classes, and judge the explanations; see `scored`."""

    def work(worker: Worker, count: int, x: Array, y: Array, key_data: Array) -> CounterfactualQuality:
        since = time.monotonic()
        found: CounterfactualQuality = worker.call(
            _judged, method, worker.model, x, y, jax.random.wrap_key_data(key_data)
        )
        told(COUNTERFACTUAL, len(x), count, time.monotonic() - since)
        return found

    yield from map_batches(as_pytree(model), (images, targets, key_data), work, rows)


def by_name(given: Any, find: Callable[[str], _Named], what: str) -> dict[str, _Named]:
    """Methods or metrics by their names.

    Args:
        given: names, or what they stand for; or a mapping from other names.
        find: gives what a name stands for.
        what: "methods" or "metrics".

    Raises:
        UserError: there are none, two have one name, or one is not known.
    """
    if isinstance(given, Mapping):
        named = [(str(name), find(one) if isinstance(one, str) else one) for name, one in given.items()]
    else:
        found = [find(one) if isinstance(one, str) else one for one in ([given] if isinstance(given, str) else given)]
        named = [(getattr(one, "name", ""), one) for one in found]
    kind = Attribution if what == "methods" else Metric
    for name, one in named:
        if not isinstance(one, kind):
            raise UserError(f"expected {what} as names or {kind.__name__}s, got {one!r}")
        if [other for other, _ in named].count(name) > 1:
            raise UserError(f"expected {what} of different names, got {name} twice: pass a dict of names of your own")
    if not named:
        raise UserError(f"expected {what}, got none")
    return dict(named)


def _attributed(method: Attribution, model: Model, images: Images, targets: Labels, keys: Keys) -> Attributions:
    return method.attribute(model, images, targets, keys)


@jax.jit
def _attribute(whole: Callable[..., Array], model: Model, images: Array, targets: Array, keys: Array) -> Array:
    return whole(model, images, targets, keys)


@jax.jit
def _judged(
    method: AdversarialExplanation, model: Model, images: Array, targets: Array, keys: Array
) -> CounterfactualQuality:
    found: CounterfactualQuality = quality(
        model, images, images + method.attribute(model, images, targets, keys), targets
    )
    return found
