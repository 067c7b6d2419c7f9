"""Run attacks on a worker in short segments, so that progress and interruption respond."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from advx_jax.analysis.workers import Worker
from advx_jax.attacks.base import Attack, AttackResult, Model, State, example_keys
from advx_jax.attacks.explained import Explained
from advx_jax.attacks.explaining import ExplanationAttack

# About 3 seconds of a chunk on a CPU core.
_LONGEST_SEGMENT = 36


def segment_lengths(steps: int, draws: int = 1) -> list[int]:
    """Split the steps into segments of at most 36 gradients, all of one length if it need not be short.

    Each length is compiled for itself, so one is better than two: 450 steps are 15 segments of 30.

    Args:
        steps: to split.
        draws: gradients of a step, for a random network.
    """
    longest = max(1, _LONGEST_SEGMENT // draws)
    even = max(length for length in range(1, longest + 1) if steps % length == 0)
    if even > longest // 3:
        return [even] * (steps // even)
    count = -(-steps // longest)
    return [steps // count + (index < steps % count) for index in range(count)]


def run_in_segments(
    worker: Worker,
    attack: Attack,
    images: Array,
    labels: Int[Array, "*runs batch"],
    keys: Key[Array, " batch"] | None = None,
    on_steps: Callable[[int], None] = lambda _: None,
    on_spared: Callable[[int], None] = lambda _: None,
) -> State:
    """Run an attack to its last step, or until no example can get better.

    Args:
        worker: where to compute, and where all arrays are.
        attack: one that runs by itself, such as the parts of an ensemble.
        images: x.
        labels: true classes or targets; with a row for each run all runs are made at once, by vmap.
        keys: of random draws; None for an attack that draws nothing.
        on_steps: called after each segment with the number of steps it made.
        on_spared: called with the number of steps that were not needed.

    Returns:
        The attack's last state, to be given to `result_of`; every field has the leading axes of `labels`.

    Raises:
        Interrupted: the work was given up.
    """
    for segment in segments(worker, attack, images, labels, keys):
        on_steps(segment.steps)
        left = attack.n_steps - segment.made
        if left and segment.all_settled:
            on_spared(left)
            break
    return segment.state


def attack_segments(attack: Attack) -> list[int]:
    """The steps of an attack that runs by itself, split into segments."""
    return segment_lengths(attack.n_steps, getattr(attack, "eot", 1))


class Segment(NamedTuple):
    """Where an attack is after some of its steps.

    Attributes:
        steps: of this segment.
        made: of all so far.
        state: after them.
        all_settled: whether no example can get better.
    """

    steps: int
    made: int
    state: State
    all_settled: bool


def segments(
    worker: Worker,
    attack: Attack,
    images: Array,
    labels: Int[Array, "*runs batch"],
    keys: Key[Array, " batch"] | None = None,
) -> Iterator[Segment]:
    """Run an attack to its last step, and tell where it is after each segment; arguments as `run_in_segments` has them.

    Raises:
        Interrupted: the work was given up.
    """
    state, made = worker.call(_init, attack, worker.model, images, labels, keys), 0
    for steps in attack_segments(attack):
        state, all_settled = worker.call(_advance, attack, worker.model, images, labels, state, steps)
        made += steps
        yield Segment(steps, made, state, bool(all_settled))


def result_of(worker: Worker, attack: Attack, images: Array, labels: Array, state: State) -> AttackResult:
    """The result of the state that `run_in_segments` gave; every field has the leading axes of `labels`."""
    result: AttackResult = worker.call(_result, attack, worker.model, images, labels, state)
    return result


def explained_by(worker: Worker, attack: ExplanationAttack, images: Array, labels: Array, state: State) -> Explained:
    """The explanations of the state that `run_in_segments` gave; every field has the leading axes of `labels`."""
    found: Explained = worker.call(_explained, attack, worker.model, images, labels, state)
    return found


def _over_runs(function: Callable[..., Any], labels: Array, *mapped: Any) -> Any:
    return function(labels, *mapped) if labels.ndim == 1 else jax.vmap(function)(labels, *mapped)


@jax.jit
def _init(attack: Attack, model: Model, images: Array, labels: Array, keys: Array | None) -> Any:
    draws = example_keys(keys, jnp.arange(len(images)))
    return _over_runs(lambda y: attack.init(model, images, y, draws), labels)


@functools.partial(jax.jit, static_argnames=("n_steps",))
def _advance(attack: Attack, model: Model, images: Array, labels: Array, state: Any, n_steps: int) -> tuple[Any, Array]:
    state = _over_runs(lambda y, s: attack.advance(model, images, y, s, n_steps), labels, state)
    settled = attack.settled(state) if labels.ndim == 1 else jax.vmap(attack.settled)(state)
    return state, settled.all()


@jax.jit
def _result(attack: Attack, model: Model, images: Array, labels: Array, state: Any) -> AttackResult:
    result: AttackResult = _over_runs(lambda y, s: attack.result(model, images, y, s), labels, state)
    return result


@jax.jit
def _explained(attack: ExplanationAttack, model: Model, images: Array, labels: Array, state: Any) -> Explained:
    found: Explained = _over_runs(lambda y, s: attack.explained(model, images, y, s), labels, state)
    return found
