"""Attributions of any number of images towards any number of targets, on all devices of this machine."""

from collections.abc import Callable

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
    n_targets = y.shape[1]
    key_data = np.asarray(jax.random.key_data(example_keys(key, jnp.arange(len(x)))))

    # Together they are a function of images whose numbers are copied to every device.
    task = jax.tree_util.Partial(_attributed, as_pytree(model), method)
    cost = row_bytes(jax.tree_util.Partial(_attributed_once, as_pytree(model), method), x)
    at_once = evenly(n_targets, cost)

    def work(worker: Worker, count: int, x: Array, y: Array, key_data: Array) -> np.ndarray:
        parts = []
        for group in groups(n_targets, at_once):
            towards = jnp.take(y, group.places, axis=1).T
            found = worker.call(_run, worker.model, x, towards, key_data)
            parts.append(np.moveaxis(np.asarray(found), 0, 1)[:, : group.n])
            update(count * group.n / n_targets)
        return np.concatenate(parts, axis=1)

    with call_progress(len(x), method.name, progress, on_progress) as update:
        found = gather(len(x), map_batches(task, (x, y, key_data), work, chunk_rows(len(x), cost, at_once)))
    return found if several else found[:, 0]


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
def _run(task: Callable[..., Array], images: Array, targets: Array, key_data: Array) -> Array:
    return task(images, targets, jax.random.wrap_key_data(key_data))
