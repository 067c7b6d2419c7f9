"""Run the attack loop on a worker in short segments, so that progress and interruption respond."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from advx_jax.analysis.workers import Worker
from advx_jax.attacks import loop
from advx_jax.attacks.loop import AttackResult, AttackSettings, AttackState, Kind, LogitsFn

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
    kind: Kind,
    images: Float[np.ndarray, "batch *shape"],
    labels: Int[np.ndarray, "runs batch"],
    settings: AttackSettings,
    on_steps: Callable[[int], None] = lambda _: None,
) -> AttackResult:
    """Attack each image once for each row of labels (all of them at once, by vmap).

    Args:
        worker: where to compute.
        kind: of attack.
        images: on the network's scale.
        labels: true classes in a single row, or a row for each target.
        settings: of the attack.
        on_steps: called after each segment with the number of steps it made.

    Returns:
        The result, on the worker's device; every field has leading axes (runs, batch).

    Raises:
        Interrupted: the work was given up.
    """
    x, y = worker.put(images), worker.put(labels)
    state = worker.call(_start, x, y, settings)
    for steps in segment_lengths(settings.steps):
        state = worker.call(_advance, worker.logits_fn, kind, x, y, settings, state, steps)
        on_steps(steps)
    return worker.call(_finish, worker.logits_fn, kind, x, y, settings, state)


@jax.jit
def _start(images: Array, labels: Array, settings: AttackSettings) -> AttackState:
    return jax.vmap(lambda _: loop.start(images, settings))(labels)


@functools.partial(jax.jit, static_argnames=("kind", "n_steps"))
def _advance(
    logits_fn: LogitsFn,
    kind: Kind,
    images: Array,
    labels: Array,
    settings: AttackSettings,
    state: AttackState,
    n_steps: int,
) -> AttackState:
    network = loop.without_memory(logits_fn)
    return jax.vmap(lambda y, s: loop.advance(network, kind, images, y, settings, s, n_steps))(labels, state)


@functools.partial(jax.jit, static_argnames=("kind",))
def _finish(
    logits_fn: LogitsFn, kind: Kind, images: Array, labels: Array, settings: AttackSettings, state: AttackState
) -> AttackResult:
    network = loop.without_memory(logits_fn)
    return jax.vmap(lambda y, s: loop.finish(network, kind, images, y, settings, s)[0])(labels, state)
