"""What minimum-norm attacks have in common: they look at a perturbation, remember the smallest success, and step.

A search runs in segments: `start`, then `advance` as often as wanted, then `finish`. Several
searches make a `Chain` (see `chain.py`).
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from advx_jax.attacks.criteria import UNTIL_MISCLASSIFIED, Criterion, clearly_met, is_met
from advx_jax.attacks.loop import LogitsFn
from advx_jax.attacks.norms import per_example, rms
from advx_jax.attacks.projections import l2_norm
from advx_jax.errors import UserError


class Smallest(NamedTuple):
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
    found: Smallest


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


def nothing_found(search: Search, images: Float[Array, "batch *shape"]) -> Smallest:
    """What is known before a search.

    Raises:
        UserError: the search's number of steps is not positive.
    """
    if search.steps < 1:
        raise UserError(f"expected at least 1 attack step, got {search.steps}")
    batch = images.shape[0]
    return Smallest(
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
    found: Smallest,
) -> tuple[Smallest, Bool[Array, " batch"]]:
    """Tell which examples succeed with a perturbation, and remember it where it is the smallest.

    A success so close to the boundary that rounding decides is none. An image that needs no perturbation
    is over the boundary by definition.
    """
    norm = search.size(perturbation)
    unmoved = (norm == 0) & is_met(search.criterion, logits, labels)
    success = clearly_met(search.criterion, logits, labels) | unmoved
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
