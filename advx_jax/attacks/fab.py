"""FAB, the fast adaptive boundary attack: walk along the linearised boundary, close to the image.

From "Minimally distorted adversarial examples with a fast adaptive boundary attack" (Croce and Hein 2020,
arXiv 1907.02044), algorithm 1. It looks for the NEAREST misclassified image; an image counts as broken if that one lies
within the budget.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float

from advx_jax.attacks.arrays import Images, Keys, Labels, Perturbations, Values
from advx_jax.attacks.ascent import at_least_float32
from advx_jax.attacks.base import AttackResult, Model, smaller
from advx_jax.attacks.criteria import Misclassified, are_numbers, clearly_met, is_met
from advx_jax.attacks.fixed_epsilon import BestSoFar, FixedEpsilon, Targets
from advx_jax.attacks.norms import per_example
from advx_jax.attacks.projections import Norm, clipped, dual_size, linf_norm, size, smallest_fitting
from advx_jax.errors import UserError

# The paper's α_max, η and β: how much of a step may start from the image itself, how far steps go
# beyond the linearised boundary, and how much of the way an adversarial point keeps.
_LARGEST_BIAS, _OVERSHOOT, _KEPT = 0.1, 1.05, 0.9
_TINY, _SHORTEST = 1e-12, 1e-8


class FABState(NamedTuple):
    """State between two steps.

    Attributes:
        iterate: the point to step from.
        targets: the class to go to, for each example; not looked at if untargeted.
        nearest: the nearest success so far; the image itself if there was none.
        distance: how far it is, in the ball's norm; infinite if there was none.
        best_so_far: whether there was one within the ball.
    """

    iterate: Images
    targets: Labels
    nearest: Images
    distance: Values
    best_so_far: BestSoFar


@struct.dataclass(kw_only=True)
class FAB(FixedEpsilon):
    """FAB towards the nearest of all classes in each step, which takes the gradients of all logits.

    With an infinite eps it is a minimum-norm attack: the result is the nearest success.

    Attributes:
        eps: radius of the ball in its norm, on the images' scale; possibly infinite.
        norm: "L1", "L2" or "Linf".
        steps: AutoAttack makes 100.
        targeted: towards one class instead, with one gradient a step (see `FABT` for several).
    """

    norms = ("L1", "L2", "Linf")
    may_be_infinite = ("eps",)

    steps: int = struct.field(pytree_node=False, default=100)
    targeted: bool = struct.field(pytree_node=False, default=False)

    @property
    def name(self) -> str:
        """As the field names it."""
        return "fab-t" if self.targeted else "fab"

    def check(self, n_classes: int | None = None) -> None:
        """Refuse targets other than its own, and other boundaries than those between classes, which it walks along.

        Raises:
            UserError: in one line.
        """
        super().check(n_classes)
        self.refuse_targets()
        if not isinstance(self.criterion, Misclassified):
            raise UserError(f"expected the criterion Misclassified() for {self.name}, got {self.criterion}")

    def init(self, model: Model, images: Images, labels: Labels, keys: Keys | None) -> FABState:
        """State before the first step, at the images themselves; there is nothing random in it."""
        del keys
        best_so_far, targets = self.initial_best(model, images, labels)
        distance = jnp.where(best_so_far.success, 0, jnp.inf).astype(images.dtype)
        return FABState(images, targets, images, distance, best_so_far)

    def step(self, model: Model, images: Images, labels: Labels, state: FABState) -> FABState:
        """Go a little beyond the linearised boundary, and back towards the image where that was across."""
        norm, here = self.norm, state.iterate
        if self.targeted:
            gap, normal = _towards_target(model, here, labels, state.targets)
        else:
            gap, normal = _towards_nearest(norm, model, here, labels)
        offset = (normal * (here - images)).sum(tuple(range(1, images.ndim)))
        along = to_hyperplane(norm, here, normal, gap, self.stay_in_range)
        afresh = to_hyperplane(norm, images, normal, gap - offset, self.stay_in_range)
        length, length_afresh = (jnp.maximum(size(norm, d), _SHORTEST) for d in (along, afresh))
        bias = per_example(jnp.minimum(length / (length + length_afresh), _LARGEST_BIAS), images)
        new = (1 - bias) * (here + _OVERSHOOT * along) + bias * (images + _OVERSHOOT * afresh)
        if self.stay_in_range:
            new = clipped(images, new)

        logits = model(new)
        across = is_met(self.criterion, logits, labels)
        distance = size(norm, new - images)
        nearer = clearly_met(self.criterion, logits, labels) & (distance < state.distance)
        nearest = jnp.where(per_example(nearer, new), new, state.nearest)
        distance = jnp.where(nearer, distance, state.distance)
        within = (distance <= self.eps) & jnp.isfinite(distance)
        earlier = state.best_so_far
        evaluations = earlier.evaluations + 1
        best_so_far = BestSoFar(
            adversarial=jnp.where(per_example(within, images), nearest, images),
            success=within,
            first_success=jnp.where(within & ~earlier.success, evaluations, earlier.first_success),
            evaluations=evaluations,
            finite=earlier.finite & are_numbers(logits, labels),
        )
        iterate = jnp.where(per_example(across, new), images + _KEPT * (new - images), new)
        return FABState(iterate, state.targets, nearest, distance, best_so_far)

    def settled(self, state: FABState) -> Bool[Array, "*batch"]:
        """Never: the nearest point may still get nearer after it is within the ball."""
        del state
        return jnp.zeros((), bool)

    def join(self, first: AttackResult, second: AttackResult) -> AttackResult:
        """The nearer success of each image."""
        return smaller(first, second)


@struct.dataclass(kw_only=True)
class FABT(Targets):
    """AutoAttack's FAB-T: towards the likeliest other classes one after another, with one gradient a step.

    With an infinite eps it is a minimum-norm attack: the result is the nearest success.
    """

    norms = FAB.norms
    may_be_infinite = FAB.may_be_infinite

    def towards(self, rank: int) -> FAB:
        """FAB towards one class."""
        return FAB(
            eps=self.eps,
            norm=self.norm,
            steps=self.steps,
            stay_in_range=self.stay_in_range,
            targeted=True,
            target=rank,
        )

    def join(self, first: AttackResult, second: AttackResult) -> AttackResult:
        """The nearer success of each image."""
        return smaller(first, second)


def to_hyperplane(norm: Norm, points: Images, normal: Perturbations, gap: Values, stay_in_range: bool) -> Perturbations:
    """The shortest d with gap + ⟨normal, d⟩ = 0 and points + d in [0,1]; as far as the box goes if there is none.

    L2 and L∞ have a solution of the form d_i = ±min(λ·v_i, room_i), with v = |normal| for L2 and 1 for
    L∞; λ solves an equation that is linear between the values at which a pixel reaches its end of the box. In L1
    the steepest values go to their ends, one after the other.

    Args:
        norm: in which d is short.
        points: in [0,1], if they have to stay there.
        normal: of the hyperplane.
        gap: its function's value at the points.
        stay_in_range: keep points + d in [0,1].
    """
    # The hyperplane is the same at any scale of its function; at this one no square underflows.
    scale = linf_norm(normal)
    scale = jnp.where((scale > 0) & jnp.isfinite(scale), scale, 1)
    normal, gap = normal / per_example(scale, normal), gap / scale
    flat, w = points.reshape(len(points), -1), normal.reshape(len(points), -1)
    sign = -jnp.sign(gap)[:, None] * jnp.sign(w)
    steepness = jnp.abs(w)
    # Points may lie out of the box by as much as their images do.
    room = jnp.maximum(jnp.where(sign > 0, 1 - flat, flat), 0)
    # No way leads to a class that is masked, by -inf or the like.
    wanted = jnp.where(jnp.isfinite(gap), jnp.abs(gap), 0)
    if norm == "L1":
        moved = _steepest_first(steepness, room if stay_in_range else None, wanted)
        return (sign * moved).reshape(points.shape)
    speed = jnp.where(steepness > 0, steepness if norm == "L2" else 1, 0)
    slope = steepness * speed
    if not stay_in_range:
        total = slope.sum(1)
        pace = jnp.where(total > 0, wanted / jnp.where(total > 0, total, 1), 0)
        return (sign * pace[:, None] * speed).reshape(points.shape)

    ends = jnp.where(speed > 0, room / jnp.where(speed > 0, speed, 1), jnp.inf)

    def paces(pace: Array) -> Array:
        """The λ that would do if no more pixels reached their ends than do by this one."""
        at_end = ends <= pace[:, None]
        missing = wanted - jnp.where(at_end, steepness * room, 0).sum(1)
        moving = jnp.where(at_end, 0, slope).sum(1)
        return jnp.where(moving > 0, missing / jnp.where(moving > 0, moving, 1), jnp.inf)

    # Newton's method from below: the sum is concave in λ, so that no step goes too far, and each but the last has
    # more pixels at their ends. Sorting the ends needs no loop, but takes 17 times as long on a CPU.
    start = jnp.zeros_like(wanted)
    _, pace = lax.while_loop(
        lambda state: (state[1] > state[0]).any(),
        lambda state: (state[1], jnp.maximum(state[1], paces(state[1]))),
        (start, paces(start)),
    )
    moved = jnp.minimum(jnp.where(speed > 0, pace[:, None] * jnp.where(speed > 0, speed, 1), 0), room)
    return (sign * jnp.maximum(moved, 0)).reshape(points.shape)


def _steepest_first(
    steepness: Float[Array, "batch values"], room: Float[Array, "batch values"] | None, wanted: Values
) -> Float[Array, "batch values"]:
    """How far each value goes in L1: the steepest as far as they can, and among the last equally steep ones all alike.

    Args:
        steepness: what a value contributes for its way.
        room: how far it can go; any distance if None.
        wanted: of all contributions together.
    """
    if room is None:
        last = steepness == steepness.max(1, keepdims=True)
        room, before = jnp.where(last, 1.0, 0.0).astype(steepness.dtype), jnp.zeros_like(steepness)
        most = jnp.inf
    else:
        reach = steepness * room
        threshold = smallest_fitting(
            lambda value: jnp.where(steepness > value[:, None], reach, 0).sum(1) <= wanted, steepness
        )[:, None]
        last = steepness == threshold
        before = jnp.where(steepness > threshold, room, 0)
        most = 1.0
    missing = wanted - (steepness * before).sum(1)
    left = jnp.where(last, steepness * room, 0).sum(1)
    part = jnp.clip(jnp.where(left > 0, missing / jnp.where(left > 0, left, 1), 0), 0, most)
    return before + jnp.where(last, part[:, None] * room, 0)


def _towards_target(model: Model, points: Array, labels: Array, targets: Array) -> tuple[Values, Perturbations]:
    """z_t - z_y and its gradient: a hyperplane where both logits are equal."""

    def total(points: Array) -> tuple[Array, Array]:
        logits = at_least_float32(model(points))
        rows = jnp.arange(len(labels))
        gap = logits[rows, targets] - logits[rows, labels]
        return gap.sum(), gap

    normal, gap = jax.grad(total, has_aux=True)(points)
    return gap, normal


def _towards_nearest(norm: Norm, model: Model, points: Array, labels: Array) -> tuple[Values, Perturbations]:
    """The hyperplane that is nearest in the norm, of those between the label and each other class."""
    rows = jnp.arange(len(labels))

    def gaps(points: Array) -> Array:
        logits = at_least_float32(model(points))
        return logits - logits[rows, labels][:, None]

    values, pull = jax.vjp(gaps, points)
    n_classes = values.shape[-1]

    def gradient(chosen: Array) -> Array:
        return pull(jnp.broadcast_to(chosen, values.shape))[0]

    normals = jax.vmap(gradient)(jnp.eye(n_classes, dtype=values.dtype))
    # Distances are measured in the norm, so slopes in its dual.
    dual = jax.vmap(functools.partial(dual_size, norm))(normals)
    own = jnp.arange(n_classes)[None] == labels[:, None]
    distances = jnp.where(own, jnp.inf, jnp.abs(values) / (dual.T + _TINY))
    nearest = distances.argmin(-1)
    return values[rows, nearest], normals[nearest, rows]
