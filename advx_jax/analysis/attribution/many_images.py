"""Attributions of any number of images towards any number of targets, on all devices of this machine."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from advx_jax.analysis.attribution.base import Attribution, as_attribution
from advx_jax.analysis.batches import gather, map_batches
from advx_jax.analysis.chunks import chunk_rows, evenly, groups
from advx_jax.analysis.row_cost import row_bytes
from advx_jax.analysis.soundness import prepared
from advx_jax.analysis.workers import Worker
from advx_jax.attacks.base import Model, example_keys
from advx_jax.attacks.checks import ImagesLike, LabelsLike, checked_labels
from advx_jax.errors import UserError
from advx_jax.networks.pytrees import as_pytree
from advx_jax.progress import call_progress


class AttributionChunk(NamedTuple):
    """How much is attributed at a time.

    Attributes:
        rows: images.
        n_targets: classes for each of them; the others follow.
    """

    rows: int
    n_targets: int


def attribute_images(
    model: Model,
    images: ImagesLike,
    targets: LabelsLike,
    method: Attribution,
    key: Key[Array, "..."] | None = None,
    on_progress: Callable[[float], None] = lambda _: None,
    progress: bool | None = None,
) -> Float[np.ndarray, "n ..."]:
    """Attribute the logits of images' targets to their values, or positions.

    No image's result depends on another's, nor on how many are computed at once. An image's random draws are the same
    for all of its targets.

    Args:
        model: images to logits, in evaluation mode.
        images: on the [0,1] scale, (n, height, width, channels).
        targets: a class for each image, (n,), or several, (n, targets).
        method: how.
        key: of random draws, folded with each image's place; or a key for each image. `jax.random.key(0)` if None.
        on_progress: called with how many images' worth of work was just done; fractions add up.
        progress: show a bar; None for in a notebook only.

    Returns:
        Signed: (n, height, width, channels), or (n, height, width) of a spatial method; with a second axis of targets
        where each image has several.

    Raises:
        UserError: model, images, targets or method are none to work with.
    """
    as_attribution(method)
    x, _, n_classes = prepared(model, images)
    if len(x) == 0:
        return _nothing(method, x.shape[1:], np.shape(targets)[1:])
    y = _checked_targets(targets, len(x), n_classes)
    method.check(x.shape[1:])
    several, y = y.ndim == 2, y.reshape(len(x), -1)
    keys = example_keys(key, jnp.arange(len(x)))
    chunk = attribution_chunk(model, x, method, y.shape[1])
    with call_progress(len(x), method.name, progress, on_progress) as update:
        found = attributed(model, x, y, method, keys, chunk, update)
    return found if several else found[:, 0]


def attribution_chunk(model: Model, images: Any, method: Attribution, n_targets: int) -> AttributionChunk:
    """How many images make a chunk, and for how many of its targets each is attributed at once.

    Args:
        model: images to logits.
        images: only their number, shape and type count.
        method: how.
        n_targets: classes for each image.

    Raises:
        UserError: see `chunk_rows`; or the method does not work with such a model.
    """
    cost = attribution_row_bytes(model, images, method)
    at_once = evenly(n_targets, cost)
    return AttributionChunk(chunk_rows(len(images), cost, at_once), at_once)


def attribution_row_bytes(model: Model, images: Any, method: Attribution) -> int:
    """Memory that attributing one target of an image takes, see `row_bytes`.

    Raises:
        UserError: the method does not work with such a model.
    """
    return row_bytes(jax.tree_util.Partial(_attributed_once, as_pytree(model), method), images)


def attributed(
    model: Model,
    images: Float[np.ndarray, "n *shape"],
    targets: Int[np.ndarray, "n targets"],
    method: Attribution,
    keys: Key[Array, " n"],
    chunk: AttributionChunk,
    on_progress: Callable[[float], None],
) -> Float[np.ndarray, "n targets ..."]:
    """Attribute what has been checked, see `attribute_images`.

    Args:
        model: images to logits.
        images: at least one.
        targets: classes for each image.
        method: how.
        keys: of each image's random draws.
        chunk: how much at a time; the last chunk is padded.
        on_progress: called with how many images' worth of work was just done.
    """
    # Together they are a function of images whose numbers are copied to every device.
    task = jax.tree_util.Partial(_attributed, as_pytree(model), method)
    n_targets = targets.shape[1]

    def work(worker: Worker, count: int, x: Array, y: Array, key_data: Array) -> np.ndarray:
        parts = []
        for group in groups(n_targets, chunk.n_targets):
            found = worker.call(_run, worker.model, x, y, group.places, key_data)
            parts.append(np.moveaxis(np.asarray(found), 0, 1)[:, : group.n])
            on_progress(count * group.n / n_targets)
        return np.concatenate(parts, axis=1)

    arrays = (images, targets, np.asarray(jax.random.key_data(keys)))
    found: np.ndarray = gather(len(images), map_batches(task, arrays, work, chunk.rows))
    return found


def _checked_targets(
    targets: LabelsLike, n_images: int, n_classes: int
) -> Int[np.ndarray, " n"] | Int[np.ndarray, "n targets"]:
    """As int32.

    Raises:
        UserError: they are no classes, or not equally many for each image.
    """
    shape = np.shape(targets)
    if len(shape) != 2 or shape[0] != n_images or shape[1] == 0:
        return np.asarray(checked_labels(targets, n_images, n_classes, "target"))
    y = np.asarray(targets)
    if n_classes > 2 and shape[1] == n_classes and (np.sort(y, axis=1) == np.eye(n_classes, dtype=y.dtype)[-1]).all():
        raise UserError("expected targets as class numbers, got them as if one-hot: pass targets.argmax(-1)")
    return np.asarray(checked_labels(y.reshape(-1), y.size, n_classes, "target")).reshape(shape)


def _nothing(method: Attribution, image_shape: tuple[int, ...], target_shape: tuple[int, ...]) -> np.ndarray:
    """Of no images."""
    return np.zeros((0, *target_shape, *(image_shape[:2] if method.is_spatial else image_shape)), np.float32)


def _attributed(model: Model, method: Attribution, images: Array, targets: Array, keys: Array) -> Array:
    """Of each row of targets, a class for each image."""
    return jax.vmap(lambda y: method.attribute(model, images, y, keys))(targets)


def _attributed_once(model: Model, method: Attribution, images: Array) -> Array:
    keys = example_keys(None, jnp.arange(len(images)))
    return method.attribute(model, images, jnp.zeros(len(images), jnp.int32), keys)


@jax.jit
def _run(task: Callable[..., Array], images: Array, targets: Array, places: Array, key_data: Array) -> Array:
    """Towards those of each image's targets that are at these places."""
    return task(images, jnp.take(targets, places, axis=1).T, jax.random.wrap_key_data(key_data))
