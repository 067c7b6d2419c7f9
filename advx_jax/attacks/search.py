"""What minimum-norm attacks have in common: they look at a perturbation, remember the smallest success, and step.

A search runs in segments: `start`, then `advance` as often as wanted, then `finish`. Several searches
make a `Chain`, whose result is the smallest success of all.
"""

import dataclasses
import functools
import itertools
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from advx_jax.attacks.criteria import UNTIL_MISCLASSIFIED, Criterion
from advx_jax.attacks.loop import LogitsFn
from advx_jax.attacks.norms import per_example, rms
from advx_jax.attacks.projections import l2_norm
from advx_jax.errors import UserError

# Logits of deep networks differ by so many units in the last place from one compilation to another.
_ROUNDING = 100


class Found(NamedTuple):
    """The smallest success so far, per example.

    Attributes:
        perturbation: δ; 0 if there was none.
        norm: its size, by which it is the smallest; infinite if there was none.
        first_ok: number of gradient evaluations before the first success; all if there was none.
        found_at: the same for the smallest one.
        finite: no logit or perturbation was infinite or NaN.
        evaluations: gradient evaluations made, of each example.
    """

    perturbation: Float[Array, "batch *shape"]
    norm: Float[Array, " batch"]
    first_ok: Int[Array, " batch"]
    found_at: Int[Array, " batch"]
    finite: Bool[Array, " batch"]
    evaluations: Int[Array, ""]


class SearchResult(NamedTuple):
    """What a minimum-norm attack found, per example.

    Attributes:
        perturbation: δ, the smallest success; 0 if there was none.
        rms: its RMS on the images' scale; infinite if there was none.
        norm: its size in the norm that the attack minimises; infinite if there was none.
        first_ok: number of gradient evaluations before the first success; all if there was none.
        found_at: the same for the smallest success.
        succeeded: there was one. If not, δ = 0 is NO success.
        finite: no logit or perturbation was infinite or NaN.
        evaluations: gradient evaluations made, of each example.
    """

    perturbation: Float[Array, "batch *shape"]
    rms: Float[Array, " batch"]
    norm: Float[Array, " batch"]
    first_ok: Int[Array, " batch"]
    found_at: Int[Array, " batch"]
    succeeded: Bool[Array, " batch"]
    finite: Bool[Array, " batch"]
    evaluations: Int[Array, ""]


class State(NamedTuple):
    """State between two steps.

    Attributes:
        step: number of steps made.
        perturbation: δ, to look at next.
        radius: ε of the sphere or ball that it lies in, of each example.
        found: the smallest success so far.
    """

    step: Int[Array, ""]
    perturbation: Float[Array, "batch *shape"]
    radius: Float[Array, " batch"]
    found: Found


@struct.dataclass
class Search:
    """Base of the minimum-norm attacks; a pytree, of which numbers may change without compilation.

    Attributes:
        steps: number of steps, each with one gradient evaluation.
        criterion: of success.
        stay_in_range: keep x + δ in [0,1], as benchmarks do.
    """

    steps: int = struct.field(pytree_node=False, default=100)
    criterion: Criterion = struct.field(pytree_node=False, default=UNTIL_MISCLASSIFIED)
    stay_in_range: bool = struct.field(pytree_node=False, default=True)

    @property
    def gradient_evaluations(self) -> int:
        """Cost for each image; success is looked for once more after the last step, without a gradient."""
        return self.steps

    @property
    def parts(self) -> tuple["Search", ...]:
        """Searches to run one after the other; here only this one."""
        return (self,)

    def until(self, criterion: Criterion) -> "Search":
        """The same attack with another criterion of success."""
        return dataclasses.replace(self, criterion=criterion)

    def revised(self, steps: int, stay_in_range: bool) -> "Search":
        """The same attack with another number of steps, free to leave [0,1] or not."""
        return dataclasses.replace(self, steps=steps, stay_in_range=stay_in_range)

    def record(self) -> dict[str, Any]:
        """Everything that a result depends on, apart from network, image and criterion."""
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del settings["criterion"]
        return {"attack": type(self).__name__.lower()} | settings

    def size(self, perturbation: Float[Array, "batch *shape"]) -> Float[Array, " batch"]:
        """The norm that is minimised."""
        return l2_norm(perturbation)

    def start(self, images: Float[Array, "batch *shape"]) -> State:
        """State before the first step."""
        raise NotImplementedError

    def step(
        self,
        logits_fn: LogitsFn,
        images: Float[Array, "batch *shape"],
        labels: Int[Array, " batch"],
        state: State,
    ) -> State:
        """Look at the perturbation, with its gradient, and make the next one."""
        raise NotImplementedError

    def advance(
        self,
        logits_fn: LogitsFn,
        images: Float[Array, "batch *shape"],
        labels: Int[Array, " batch"],
        state: State,
        n_steps: int,
    ) -> State:
        """Make `n_steps` steps; over all calls they should add up to `steps`."""
        return lax.scan(lambda now, _: (self.step(logits_fn, images, labels, now), None), state, length=n_steps)[0]

    def finish(
        self,
        logits_fn: LogitsFn,
        images: Float[Array, "batch *shape"],
        labels: Int[Array, " batch"],
        state: State,
    ) -> SearchResult:
        """Look at the last perturbation too, and say what was found."""
        logits = logits_fn(images + state.perturbation)
        found, _ = look(self, logits, labels, state.perturbation, state.found)
        succeeded = jnp.isfinite(found.norm)
        return SearchResult(
            perturbation=found.perturbation,
            rms=jnp.where(succeeded, rms(found.perturbation), jnp.inf),
            norm=found.norm,
            first_ok=found.first_ok,
            found_at=found.found_at,
            succeeded=succeeded,
            finite=found.finite,
            evaluations=found.evaluations,
        )


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
        attack: for instance `DDN()`, `FMN(norm="linf")` or `BEST`.
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


def nothing_found(search: Search, images: Float[Array, "batch *shape"]) -> Found:
    """What is known before a search.

    Raises:
        UserError: the search's number of steps is not positive.
    """
    if search.steps < 1:
        raise UserError(f"expected at least 1 attack step, got {search.steps}")
    batch = images.shape[0]
    return Found(
        perturbation=jnp.zeros_like(images),
        norm=jnp.full(batch, jnp.inf, images.dtype),
        first_ok=jnp.full(batch, search.steps, jnp.int32),
        found_at=jnp.full(batch, search.steps, jnp.int32),
        finite=jnp.ones(batch, bool),
        evaluations=jnp.zeros((), jnp.int32),
    )


def look(
    search: Search,
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    perturbation: Float[Array, "batch *shape"],
    found: Found,
) -> tuple[Found, Bool[Array, " batch"]]:
    """Tell which examples succeed with a perturbation, and remember it where it is the smallest.

    A success so close to the boundary that rounding decides is none: it could be a failure when looked
    at again in another batch. An image that needs no perturbation is over the boundary by definition.
    """
    norm = search.size(perturbation)
    rounding = _ROUNDING * jnp.finfo(logits.dtype).eps * jnp.abs(logits).max(-1)
    beyond = search.criterion.margin(logits, labels) < -rounding
    success = search.criterion.success(logits, labels) & (beyond | (norm == 0))
    smaller = success & (norm < found.norm)
    found = found._replace(
        perturbation=jnp.where(per_example(smaller, perturbation), perturbation, found.perturbation),
        norm=jnp.where(smaller, norm, found.norm),
        first_ok=jnp.where(success, jnp.minimum(found.first_ok, found.evaluations), found.first_ok),
        found_at=jnp.where(smaller, found.evaluations, found.found_at),
        finite=found.finite & jnp.isfinite(logits).all(-1) & jnp.isfinite(norm),
    )
    return found, success


def cosine(step: Int[Array, ""], steps: int) -> Float[Array, ""]:
    """Fall from 1 at the first step towards 0 after the last one, as half a cosine."""
    return (1 + jnp.cos(jnp.pi * step / steps)) / 2


def farthest_in_box(
    images: Float[Array, "batch *shape"],
) -> Float[Array, "batch *shape"]:
    """How far each value can move in [0,1]."""
    return jnp.maximum(images, 1 - images)
