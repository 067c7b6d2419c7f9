"""The attacks of the paper (arXiv 1906.02896; docs/method.md, Attack loop): training attacks, explanations, distances.

A step evaluates the model at x + δ, decides for each example whether to FOLLOW the gradient or to shrink δ, and moves
δ by a step of falling length. δ is kept apart from x and never clipped unless that is asked for.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from advx_jax.attacks.arrays import Counts, Images, Keys, Labels, Logits, Mask, Perturbations, Values
from advx_jax.attacks.ascent import Direction, objective, unit_gradient
from advx_jax.attacks.base import Attack, AttackResult, Model, Number
from advx_jax.attacks.criteria import Targeted, are_numbers, clearly_met, is_met
from advx_jax.attacks.explained import Explained
from advx_jax.attacks.norms import damped_unit, mean_square, per_example, rms
from advx_jax.attacks.projections import clip_to_box, l2_norm

ModelState = Any
"""What a model carries from one pass to the next: nothing, or running statistics in training mode."""

StatefulModel = Callable[[Array, ModelState], tuple[Array, ModelState]]


class PublishedState(NamedTuple):
    """State of the loop between two steps.

    Attributes:
        step: t, the number of steps made.
        perturbation: δ.
        velocity: m, the moving average of directions.
        smallest: the smallest δ seen that did not follow; 0 if there was none.
        smallest_square: its mean(δ²); infinite if there was none.
        first_stop: first t at which an example did not follow; T if there was none.
        finite: no logit was NaN, nor infinite where that decides, and no perturbation was either.
        model_state: of the model.
    """

    step: Int[Array, ""]
    perturbation: Perturbations
    velocity: Perturbations
    smallest: Perturbations
    smallest_square: Values
    first_stop: Counts
    finite: Mask
    model_state: ModelState


@struct.dataclass(kw_only=True)
class PublishedLoop(Attack):
    """Base of the paper's attacks; sizes are RMS on the images' scale.

    Attributes:
        eps: the bound of a bounded attack, and the length of the path.
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

    def settings(self) -> dict[str, Any]:
        """Everything that a result depends on; the paper's attack goes without a name."""
        fields = super().settings()
        del fields["attack"]
        return fields

    def follows(self, logits: Logits, labels: Labels, square: Values) -> Mask:
        """Whether each example follows the gradient (else its perturbation shrinks); `square` is mean(δ²)."""
        raise NotImplementedError

    def init(
        self,
        model: Model | None,
        images: Images,
        labels: Labels,
        keys: Keys | None = None,
        model_state: ModelState = (),
    ) -> PublishedState:
        """State before the first step: no perturbation."""
        del model, labels, keys
        batch = images.shape[0]
        zeros = jnp.zeros_like(images)
        return PublishedState(
            step=jnp.zeros((), jnp.int32),
            perturbation=zeros,
            velocity=zeros,
            smallest=zeros,
            smallest_square=jnp.full(batch, jnp.inf, images.dtype),
            first_stop=jnp.full(batch, self.steps, jnp.int32),
            finite=jnp.ones(batch, bool),
            model_state=model_state,
        )

    def step(self, model: Model, images: Images, labels: Labels, state: PublishedState) -> PublishedState:
        """Make one step."""
        return self.training_step(_without_state(model), images, labels, state, None)

    def training_step(
        self, model: StatefulModel, images: Images, labels: Labels, state: PublishedState, attacked: Mask | None
    ) -> PublishedState:
        """Make one step with a model that carries a state; examples that are not `attacked` stay where they are."""

        def height(perturbation: Array) -> tuple[Array, tuple[Array, ModelState]]:
            logits, model_state = model(images + perturbation, state.model_state)
            return objective(self.direction, logits, labels), (logits, model_state)

        gradient, (logits, model_state) = jax.grad(height, has_aux=True)(state.perturbation)
        state, follow = self._decide(labels, state._replace(model_state=model_state), logits)

        uphill = -gradient if self.criterion.towards_label else gradient
        direction = jnp.where(
            per_example(follow, gradient),
            unit_gradient(self.direction, uphill),
            damped_unit(-state.perturbation),
        )
        velocity = self.momentum * state.velocity + (1 - self.momentum) * direction
        move = velocity if attacked is None else jnp.where(per_example(attacked, velocity), velocity, 0)
        perturbation = state.perturbation + self._step_length(state.step) * move
        if self.stay_in_range:
            perturbation = clip_to_box(images, perturbation)
        return state._replace(step=state.step + 1, perturbation=perturbation, velocity=velocity)

    def perturb(
        self,
        model: StatefulModel,
        images: Images,
        labels: Labels,
        model_state: ModelState,
        attacked: Mask | None = None,
    ) -> tuple[Perturbations, ModelState]:
        """Run the whole loop inside a training step.

        In training mode the model normalises with the batch's statistics, and its state is the running
        ones, which each of the T passes (T+1 for a minimum-norm attack) moves.

        Args:
            model: images and state to logits and state.
            images: x.
            labels: true classes.
            model_state: before the first pass.
            attacked: examples to perturb (half-half training); all if None.

        Returns:
            δ, and the model's state after the last pass.
        """

        def step(state: PublishedState, _: None) -> tuple[PublishedState, None]:
            return self.training_step(model, images, labels, state, attacked), None

        state = lax.scan(step, self.init(None, images, labels, None, model_state), length=self.steps)[0]
        return self._chosen(model, images, labels, state)

    def _chosen(
        self, model: StatefulModel, images: Array, labels: Array, state: PublishedState
    ) -> tuple[Array, ModelState]:
        """The δ that is the result, and the model's state."""
        raise NotImplementedError

    def _decide(self, labels: Array, state: PublishedState, logits: Array) -> tuple[PublishedState, Mask]:
        """Decide which examples follow the gradient, and remember the others' perturbations."""
        square = mean_square(state.perturbation)
        follow = self.follows(logits, labels, square)
        smaller = ~follow & (square < state.smallest_square)
        state = state._replace(
            smallest=jnp.where(per_example(smaller, state.perturbation), state.perturbation, state.smallest),
            smallest_square=jnp.where(smaller, square, state.smallest_square),
            first_stop=jnp.where(follow, state.first_stop, jnp.minimum(state.first_stop, state.step)),
            finite=state.finite & are_numbers(logits, labels) & jnp.isfinite(square),
        )
        return state, follow

    def _step_length(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """eps·overshoot·(T-t)/(T(T+1)/2): linearly falling, summing to eps·overshoot over all steps."""
        total = self.steps
        return self.eps * self.overshoot / (total * (total + 1) / 2) * (total - step)

    def _result(
        self, images: Array, perturbation: Array, success: Array, first_success: Array, finite: Array
    ) -> AttackResult:
        return AttackResult(
            adversarial=jnp.where(per_example(success, images), images + perturbation, images),
            success=success,
            norm=jnp.where(success, l2_norm(perturbation), jnp.inf),
            rms=jnp.where(success, rms(perturbation), jnp.inf),
            first_success=first_success,
            evaluations=jnp.full(images.shape[:1], self.steps, jnp.int32),
            finite=finite,
        )


@struct.dataclass(kw_only=True)
class PublishedBounded(PublishedLoop):
    """The paper's L2 attack: follow the gradient inside a ball of RMS eps, fall back outside it.

    Its last perturbation counts, neither projected nor the best: the RMS is near eps where eps was reached
    (`state.first_stop` tells when), and smaller where the path was too crooked to get there. With the criterion
    `Targeted` it makes adversarial explanations. Unless told otherwise it is the paper's training attack.
    """

    eps: Number = 0.01
    steps: int = struct.field(pytree_node=False, default=7)

    @property
    def name(self) -> str:
        """For people, tables and results."""
        return "published-bounded"

    def follows(self, logits: Logits, labels: Labels, square: Values) -> Mask:
        """While mean(δ²) < eps²."""
        del logits, labels
        return square < self.eps**2

    def result(self, model: Model, images: Images, labels: Labels, state: PublishedState) -> AttackResult:
        """Whether the last perturbation meets the criterion; it is in the state in any case."""
        logits = model(images + state.perturbation)
        success = clearly_met(self.criterion, logits, labels)
        first_success = jnp.full(success.shape, self.steps, jnp.int32)
        finite = state.finite & are_numbers(logits, labels)
        return self._result(images, state.perturbation, success, first_success, finite)

    def explained(self, model: Model, images: Images, labels: Labels, state: PublishedState) -> Explained:
        """The last perturbation as an explanation."""
        finite = self.result(model, images, labels, state).finite
        return Explained(state.perturbation, state.first_stop, state.first_stop < self.steps, finite)

    def _chosen(
        self, model: StatefulModel, images: Array, labels: Array, state: PublishedState
    ) -> tuple[Array, ModelState]:
        del model, images, labels
        return state.perturbation, state.model_state


@struct.dataclass(kw_only=True)
class Published(PublishedLoop):
    """The paper's minimum-norm attack (L2,min): cross the boundary, then shrink the perturbation while staying across.

    The boundary is the criterion's: misclassified for the attack ARA, `NoBetterThanRandom` for the BTR ARA. Unless
    told otherwise, the path is the one that the paper measures with.
    """

    eps: Number = 20.0
    steps: int = struct.field(pytree_node=False, default=450)
    momentum: Number = 0.9

    def follows(self, logits: Logits, labels: Labels, square: Values) -> Mask:
        """Until the criterion holds, as published: to the last bit, not beyond rounding."""
        del square
        return ~is_met(self.criterion, logits, labels)

    def result(self, model: Model, images: Images, labels: Labels, state: PublishedState) -> AttackResult:
        """Look at the last perturbation too; the smallest success counts."""
        state, _ = self._decide(labels, state, model(images + state.perturbation))
        success = jnp.isfinite(state.smallest_square)
        return self._result(images, state.smallest, success, state.first_stop, state.finite)

    def _chosen(
        self, model: StatefulModel, images: Array, labels: Array, state: PublishedState
    ) -> tuple[Array, ModelState]:
        logits, model_state = model(images + state.perturbation, state.model_state)
        state, _ = self._decide(labels, state, logits)
        return state.smallest, model_state


EXPLANATION = PublishedBounded(eps=0.1, steps=35, overshoot=5.0, criterion=Targeted())
"""The paper's explanation, towards a class given as target: ρ = 0.1, 35 steps whose lengths sum to 5ρ."""


def _without_state(model: Model) -> StatefulModel:
    return lambda images, state: (model(images), state)
