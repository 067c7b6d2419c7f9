"""Run attacks on a worker in short segments, so that progress and interruption respond."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from advx_jax.analysis.workers import Worker
from advx_jax.attacks.chain import Part
from advx_jax.attacks.loop import LogitsFn

# About 3 seconds of a chunk on a CPU core.
_LONGEST_SEGMENT = 36


def segment_lengths(steps: int) -> list[int]:
    """Split the steps into segments of at most 36, all of one length if it need not be short.

    Each length is compiled for itself, so one is better than two: 450 steps are 15 segments of 30.
    """
    even = max(length for length in range(1, _LONGEST_SEGMENT + 1) if steps % length == 0)
    if even > _LONGEST_SEGMENT // 3:
        return [even] * (steps // even)
    count = -(-steps // _LONGEST_SEGMENT)
    return [steps // count + (index < steps % count) for index in range(count)]


def attack_in_segments(
    worker: Worker,
    attack: Part,
    images: Float[np.ndarray, "batch *shape"],
    labels: Int[np.ndarray, "runs batch"],
    on_steps: Callable[[int], None] = lambda _: None,
) -> Any:
    """Attack each image once for each row of labels (all of them at once, by vmap).

    Args:
        worker: where to compute.
        attack: an attack of the loop, or a part of a minimum-norm attack.
        images: on the network's scale.
        labels: true classes in a single row, or a row for each target.
        on_steps: called after each segment with the number of steps it made.

    Returns:
        The attack's result, on the worker's device; every field has leading axes (runs, batch).

    Raises:
        Interrupted: the work was given up.
    """
    x, y = worker.put(images), worker.put(labels)
    state = worker.call(_start, attack, x, y)
    for steps in segment_lengths(attack.steps):
        state = worker.call(_advance, worker.logits_fn, attack, x, y, state, steps)
        on_steps(steps)
    return worker.call(_finish, worker.logits_fn, attack, x, y, state)


@jax.jit
def _start(attack: Part, images: Array, labels: Array) -> Any:
    return jax.vmap(lambda _: attack.start(images))(labels)


@functools.partial(jax.jit, static_argnames=("n_steps",))
def _advance(logits_fn: LogitsFn, attack: Part, images: Array, labels: Array, state: Any, n_steps: int) -> Any:
    return jax.vmap(lambda y, s: attack.advance(logits_fn, images, y, s, n_steps))(labels, state)


@jax.jit
def _finish(logits_fn: LogitsFn, attack: Part, images: Array, labels: Array, state: Any) -> Any:
    return jax.vmap(lambda y, s: attack.finish(logits_fn, images, y, s))(labels, state)
