"""The one attack loop (docs/method.md, Attack loop): training attacks, explanations and ARA all run on it.

A step evaluates the network at x + δ, decides for each example whether to FOLLOW the gradient or
to shrink δ, and moves δ by a step of falling length. The loop can be run in segments:
`start`, then `advance` as often as wanted, then `finish`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from advx_jax.attacks.ascent import Direction, objective, unit_gradient
from advx_jax.attacks.norms import damped_unit, mean_square, per_example, rms
from advx_jax.errors import UserError

LogitsFn = Callable[[Float[Array, "batch *shape"]], Float[Array, "batch classes"]]
Memory = Any
"""What a network carries from one pass to the next: nothing, or running statistics in training mode."""
Network = Callable[[Array, Memory], tuple[Array, Memory]]
Number = float | Array
"""A setting: a number outside of compiled code, traced inside it, so that other values need no compilation."""


@struct.dataclass
class AttackSettings:
    """How far, how often and in which direction an attack moves. RMS on the images' scale.

    Attributes:
        eps: the bound of a bounded attack, and the length of the path, as RMS of the perturbation.
        steps: T, the number of steps.
        overshoot: the step lengths fall linearly and sum to eps·overshoot.
        momentum: μ of the moving average of directions; 0 for none.
        direction: "cross_entropy" as published, or "scale_free" for saturated networks.
        stay_in_range: keep x + δ in [0,1], as other benchmarks do and the paper does not.
    """

    eps: Number
    steps: int = struct.field(pytree_node=False)
    overshoot: Number = 1.0
    momentum: Number = 0.0
    direction: Direction = struct.field(pytree_node=False, default="cross_entropy")
    stay_in_range: bool = struct.field(pytree_node=False, default=False)


class Sight(NamedTuple):
    """What an attack sees before a step, and by which it decides whether to follow the gradient.

    Attributes:
        logits: of x + δ.
        labels: true classes, or targets.
        mean_square: mean(δ²) of each example.
        eps: of the settings.
    """

    logits: Float[Array, "batch classes"]
    labels: Int[Array, " batch"]
    mean_square: Float[Array, " batch"]
    eps: Number


Follow = Callable[[Sight], Bool[Array, " batch"]]


class Kind(NamedTuple):
    """What makes an attack of the loop; hashable, so that compiled code is kept apart by it.

    Attributes:
        follow: whether each example follows the gradient (else its perturbation shrinks).
        towards_label: descend to the label as a target, rather than climb away from it.
        keeps_smallest: the result is the smallest perturbation that did not follow, looked for once
            more after the last step; otherwise it is the last perturbation.
    """

    follow: Follow
    towards_label: bool
    keeps_smallest: bool


class AttackState(NamedTuple):
    """State of the loop between two steps.

    Attributes:
        step: t, the number of steps made.
        perturbation: δ.
        velocity: m, the moving average of directions.
        smallest: the smallest δ seen that did not follow; 0 if there was none.
        smallest_square: its mean(δ²); infinite if there was none.
        first_ok: first t at which an example did not follow; T if there was none.
        finite: no logit or perturbation was infinite or NaN so far.
        memory: of the network.
    """

    step: Int[Array, ""]
    perturbation: Float[Array, "batch *shape"]
    velocity: Float[Array, "batch *shape"]
    smallest: Float[Array, "batch *shape"]
    smallest_square: Float[Array, " batch"]
    first_ok: Int[Array, " batch"]
    finite: Bool[Array, " batch"]
    memory: Memory


class AttackResult(NamedTuple):
    """What an attack found, per example.

    Attributes:
        perturbation: δ, the result.
        rms: its RMS on the images' scale.
        first_ok: first step at which the example did not follow the gradient (it had reached the
            bound, or was over the boundary); T if there was none before or at the end.
        succeeded: there was such a step. If not, a minimum-norm attack has δ = 0 and NO valid distance.
        finite: no logit or perturbation was infinite or NaN.
    """

    perturbation: Float[Array, "batch *shape"]
    rms: Float[Array, " batch"]
    first_ok: Int[Array, " batch"]
    succeeded: Bool[Array, " batch"]
    finite: Bool[Array, " batch"]


def without_memory(logits_fn: LogitsFn) -> Network:
    """Lift a pure function from images to logits to what the loop runs on."""
    return lambda images, memory: (logits_fn(images), memory)


def start(images: Float[Array, "batch *shape"], settings: AttackSettings, memory: Memory = ()) -> AttackState:
    """State before the first step: no perturbation.

    Raises:
        UserError: the number of steps is not positive.
    """
    if settings.steps < 1:
        raise UserError(f"expected at least 1 attack step, got {settings.steps}")
    batch = images.shape[0]
    zeros = jnp.zeros_like(images)
    return AttackState(
        step=jnp.zeros((), jnp.int32),
        perturbation=zeros,
        velocity=zeros,
        smallest=zeros,
        smallest_square=jnp.full(batch, jnp.inf, images.dtype),
        first_ok=jnp.full(batch, settings.steps, jnp.int32),
        finite=jnp.ones(batch, bool),
        memory=memory,
    )


def advance(
    network: Network,
    kind: Kind,
    images: Float[Array, "batch *shape"],
    labels: Int[Array, " batch"],
    settings: AttackSettings,
    state: AttackState,
    n_steps: int,
    attacked: Bool[Array, " batch"] | None = None,
) -> AttackState:
    """Make `n_steps` steps of the loop.

    Args:
        network: images and memory to logits and memory.
        kind: of attack.
        images: x; the perturbation is kept apart and never clipped unless the settings ask for it.
        labels: true classes, or targets.
        settings: of the attack; its `steps` gives the schedule.
        state: where to go on from.
        n_steps: how many steps; over all calls they should add up to `settings.steps`.
        attacked: examples that are to be perturbed (half-half training); all if None.
    """

    def step(state: AttackState, _: None) -> tuple[AttackState, None]:
        def height(perturbation: Array) -> tuple[Array, tuple[Array, Memory]]:
            logits, memory = network(images + perturbation, state.memory)
            return objective(settings.direction, logits, labels), (logits, memory)

        gradient, (logits, memory) = jax.grad(height, has_aux=True)(state.perturbation)
        state, follow = _look(kind, labels, settings, state._replace(memory=memory), logits)

        uphill = -gradient if kind.towards_label else gradient
        direction = jnp.where(
            per_example(follow, gradient),
            unit_gradient(settings.direction, uphill),
            damped_unit(-state.perturbation),
        )
        velocity = settings.momentum * state.velocity + (1 - settings.momentum) * direction
        move = velocity if attacked is None else jnp.where(per_example(attacked, velocity), velocity, 0)
        perturbation = state.perturbation + _step_length(settings, state.step) * move
        if settings.stay_in_range:
            perturbation = jnp.clip(images + perturbation, 0, 1) - images
        return state._replace(step=state.step + 1, perturbation=perturbation, velocity=velocity), None

    return lax.scan(step, state, length=n_steps)[0]


def finish(
    network: Network,
    kind: Kind,
    images: Float[Array, "batch *shape"],
    labels: Int[Array, " batch"],
    settings: AttackSettings,
    state: AttackState,
) -> tuple[AttackResult, Memory]:
    """Turn the state after the last step into a result; returns the network's memory too."""
    if kind.keeps_smallest:
        logits, memory = network(images + state.perturbation, state.memory)
        state, _ = _look(kind, labels, settings, state._replace(memory=memory), logits)
        succeeded = jnp.isfinite(state.smallest_square)
        perturbation = state.smallest
    else:
        succeeded = state.first_ok < settings.steps
        perturbation = state.perturbation
    result = AttackResult(perturbation, rms(perturbation), state.first_ok, succeeded, state.finite)
    return result, state.memory


def attack(
    network: Network,
    kind: Kind,
    images: Float[Array, "batch *shape"],
    labels: Int[Array, " batch"],
    settings: AttackSettings,
    attacked: Bool[Array, " batch"] | None = None,
    memory: Memory = (),
) -> tuple[AttackResult, Memory]:
    """Run the whole loop; returns the result and the network's memory after the last pass.

    In training mode `network` normalises with the batch's statistics, and its memory is the running
    ones, which each of the T passes (T+1 for a minimum-norm attack) moves.

    Raises:
        UserError: shapes do not fit, or the number of steps is not positive.
    """
    if labels.shape != images.shape[:1]:
        raise UserError(f"expected one label for each of {images.shape[0]} images, got labels of shape {labels.shape}")
    state = start(images, settings, memory)
    state = advance(network, kind, images, labels, settings, state, settings.steps, attacked)
    return finish(network, kind, images, labels, settings, state)


@struct.dataclass
class LoopAttack:
    """An attack of the loop as something that runs in segments.

    Attributes:
        kind: of attack.
        settings: how it moves.
    """

    kind: Kind = struct.field(pytree_node=False)
    settings: AttackSettings

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.settings.steps

    def start(self, images: Float[Array, "batch *shape"]) -> AttackState:
        """State before the first step."""
        return start(images, self.settings)

    def advance(
        self,
        logits_fn: LogitsFn,
        images: Float[Array, "batch *shape"],
        labels: Int[Array, " batch"],
        state: AttackState,
        n_steps: int,
    ) -> AttackState:
        """Make `n_steps` steps."""
        return advance(without_memory(logits_fn), self.kind, images, labels, self.settings, state, n_steps)

    def finish(
        self,
        logits_fn: LogitsFn,
        images: Float[Array, "batch *shape"],
        labels: Int[Array, " batch"],
        state: AttackState,
    ) -> AttackResult:
        """Turn the state after the last step into a result."""
        return finish(without_memory(logits_fn), self.kind, images, labels, self.settings, state)[0]


def _look(
    kind: Kind, labels: Array, settings: AttackSettings, state: AttackState, logits: Array
) -> tuple[AttackState, Bool[Array, " batch"]]:
    """Decide which examples follow the gradient, and remember the others' perturbations."""
    square = mean_square(state.perturbation)
    follow = kind.follow(Sight(logits, labels, square, settings.eps))
    smaller = ~follow & (square < state.smallest_square)
    state = state._replace(
        smallest=jnp.where(per_example(smaller, state.perturbation), state.perturbation, state.smallest),
        smallest_square=jnp.where(smaller, square, state.smallest_square),
        first_ok=jnp.where(follow, state.first_ok, jnp.minimum(state.first_ok, state.step)),
        finite=state.finite & jnp.isfinite(logits).all(-1) & jnp.isfinite(square),
    )
    return state, follow


def _step_length(settings: AttackSettings, step: Int[Array, ""]) -> Float[Array, ""]:
    """eps·overshoot·(T-t)/(T(T+1)/2): linearly falling, summing to eps·overshoot over all steps."""
    total = settings.steps
    return settings.eps * settings.overshoot / (total * (total + 1) / 2) * (total - step)
