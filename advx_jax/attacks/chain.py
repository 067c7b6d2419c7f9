"""Minimum-norm attacks one after the other, what they have in common with the paper's, and how to run them."""

import dataclasses
import functools
import itertools
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from advx_jax.attacks.criteria import Criterion
from advx_jax.attacks.loop import LogitsFn
from advx_jax.attacks.norms import per_example
from advx_jax.attacks.search import Search, SearchResult
from advx_jax.errors import UserError


@struct.dataclass
class Chain:
    """Searches one after the other; the smallest success of all is the result.

    Attributes:
        name: for people and results.
        parts: the searches, in their order, with one criterion and one norm.
    """

    name: str = struct.field(pytree_node=False)
    parts: tuple[Search, ...]

    @property
    def criterion(self) -> Criterion:
        """Of success."""
        return self.parts[0].criterion

    @property
    def steps(self) -> int:
        """Number of steps of all parts."""
        return sum(part.steps for part in self.parts)

    @property
    def gradient_evaluations(self) -> int:
        """Cost for each image."""
        return sum(part.gradient_evaluations for part in self.parts)

    def until(self, criterion: Criterion) -> "Chain":
        """The same attack with another criterion of success."""
        return dataclasses.replace(self, parts=tuple(part.until(criterion) for part in self.parts))

    def revised(self, steps: int, stay_in_range: bool) -> "Chain":
        """The same attack with another number of steps, shared out as now, free to leave [0,1] or not."""
        ends = [steps * end // self.steps for end in itertools.accumulate(part.steps for part in self.parts)]
        counts = [end - begin for begin, end in itertools.pairwise([0, *ends])]
        parts = (part.revised(count, stay_in_range) for part, count in zip(self.parts, counts, strict=True))
        return dataclasses.replace(self, parts=tuple(parts))

    def record(self) -> dict[str, Any]:
        """Everything that a result depends on, apart from network, image and criterion."""
        parts = {f"{place}.{k}": v for place, part in enumerate(self.parts, 1) for k, v in part.record().items()}
        return {"attack": self.name, "steps": self.steps} | parts


@runtime_checkable
class Part(Protocol):
    """What runs in segments: a search, or an attack of the paper's loop."""

    @property
    def steps(self) -> int:
        """Number of steps."""

    def start(self, images: Array) -> Any:
        """State before the first step."""

    def advance(self, logits_fn: LogitsFn, images: Array, labels: Array, state: Any, n_steps: int) -> Any:
        """State after `n_steps` more."""

    def finish(self, logits_fn: LogitsFn, images: Array, labels: Array, state: Any) -> Any:
        """Result, from the state after the last step."""


@runtime_checkable
class MinimumNormAttack(Protocol):
    """What measures distances to a boundary: a `Search`, a `Chain` of them, or the `Published` attack."""

    @property
    def criterion(self) -> Criterion:
        """Of success."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """What to run, one after the other."""

    @property
    def steps(self) -> int:
        """Number of steps of all parts."""

    @property
    def gradient_evaluations(self) -> int:
        """Cost for each image."""

    def until(self, criterion: Criterion) -> "MinimumNormAttack":
        """The same attack with another criterion of success."""

    def record(self) -> dict[str, Any]:
        """Everything that a result depends on, apart from network, image and criterion."""


def minimise_norm(
    attack: Search | Chain,
    logits_fn: LogitsFn,
    images: Float[Array, "batch *shape"],
    labels: Int[Array, " batch"],
) -> SearchResult:
    """Find a small perturbation at which the attack's criterion holds.

    Args:
        attack: for instance `DDN()`, `FMN(norm="Linf")` or `BEST`.
        logits_fn: images to logits.
        images: x in [0,1].
        labels: true classes, or the targets if the attack's criterion is `UNTIL_TARGET`. An image that
            meets the criterion to begin with has distance 0.

    Raises:
        UserError: shapes do not fit, or a number of steps is not positive.
    """
    if labels.shape != images.shape[:1]:
        raise UserError(f"expected one label for each of {images.shape[0]} images, got labels of shape {labels.shape}")
    results = []
    for part in attack.parts:
        state = part.advance(logits_fn, images, labels, part.start(images), part.steps)
        results.append(part.finish(logits_fn, images, labels, state))
    return functools.reduce(smaller_success, results)


def smaller_success(earlier: SearchResult, later: SearchResult) -> SearchResult:
    """Of two results for the same images, the smaller success of each; as if one search had found both."""
    smaller = later.norm < earlier.norm
    late_first, late_found = later.first_ok + earlier.evaluations, later.found_at + earlier.evaluations
    return SearchResult(
        perturbation=jnp.where(per_example(smaller, later.perturbation), later.perturbation, earlier.perturbation),
        rms=jnp.where(smaller, later.rms, earlier.rms),
        norm=jnp.where(smaller, later.norm, earlier.norm),
        first_ok=jnp.where(earlier.succeeded, earlier.first_ok, late_first),
        found_at=jnp.where(smaller | ~earlier.succeeded, late_found, earlier.found_at),
        succeeded=earlier.succeeded | later.succeeded,
        finite=earlier.finite & later.finite,
        evaluations=earlier.evaluations + later.evaluations,
    )
