"""What attacks with a fixed epsilon share: the ball, the box, targets in turn, and what they remember."""

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int

from advx_jax.attacks.arrays import Counts, Images, Keys, Labels, Logits, Mask, Perturbations
from advx_jax.attacks.base import Attack, AttackResult, Model, Number
from advx_jax.attacks.criteria import are_numbers, clearly_met, is_met
from advx_jax.attacks.ensemble import Ensemble
from advx_jax.attacks.losses import likeliest_targets
from advx_jax.attacks.norms import per_example, rms
from advx_jax.attacks.projections import (
    Norm,
    NormLike,
    clipped,
    linf_norm,
    project,
    project_l1,
    room_in_box,
    size,
    unit_l2,
)
from advx_jax.errors import UserError


class BestSoFar(NamedTuple):
    """The first success so far, per example.

    Attributes:
        adversarial: an image within the ball that met the criterion; the unperturbed image if there was none.
        success: whether there was one.
        first_success: evaluations before it; all so far if there was none.
        evaluations: made so far, of each example.
        finite: no logit was NaN, nor infinite where that decides.
    """

    adversarial: Images
    success: Mask
    first_success: Counts
    evaluations: Int[Array, ""]
    finite: Mask


@struct.dataclass(kw_only=True)
class FixedEpsilon(Attack):
    """Base of attacks that look for an image over the boundary within a ball, and within [0,1].

    Attributes:
        eps: radius of the ball in its norm, on the images' scale; an L2 norm, not an RMS.
        norm: "L2" or "Linf", or what the attack's `norms` say.
        steps: with one gradient each, or one query of a black box.
        stay_in_range: keep perturbed images in [0,1].
        target: of a targeted attack, which class to go to: 0 for the likeliest but the label, 1 for the next.
    """

    eps: Number
    norm: NormLike = struct.field(pytree_node=False)
    steps: int = struct.field(pytree_node=False)
    stay_in_range: bool = struct.field(pytree_node=False, default=True)
    target: int | Array = 0

    def check(self, n_classes: int | None = None) -> None:
        """Refuse a target that the model has not.

        Raises:
            UserError: in one line.
        """
        super().check(n_classes)
        if isinstance(self.target, jax.core.Tracer):
            return
        last = None if n_classes is None else n_classes - 2
        if not _is_count(self.target) or (last is not None and self.target > last):
            most = "" if last is None else f" to {last}, of a model of {n_classes} classes"
            raise UserError(f"expected a target from 0{most or ' on'}, got {self.target!r}")

    def refuse_targets(self) -> None:
        """Refuse a criterion whose labels are targets.

        Raises:
            UserError: it is one; the attack chooses its targets itself.
        """
        if self.criterion.towards_label:
            raise UserError(f"expected a criterion that leads away from labels for {self.name}, got {self.criterion}")

    def project(self, images: Images, candidates: Images) -> Images:
        """Bring candidates back into the ball around their images, and then into [0,1] if they have to stay there.

        The second only moves them towards their images, so they stay in the ball. In L1, where most of the ball's
        surface lies outside of [0,1], they go to the nearest points of both.
        """
        change = candidates - images
        if self.norm == "L1" and self.stay_in_range:
            return clipped(images, images + project_l1(change, jnp.maximum(self.eps, 0), room_in_box(images, change)))
        moved = images + project(self.norm, change, self.eps)
        return clipped(images, moved) if self.stay_in_range else moved

    def initial_best(self, model: Model, images: Images, labels: Labels) -> tuple[BestSoFar, Labels]:
        """What is known before the first step: an input over the boundary needs no change; and the targets."""
        logits = model(images)
        batch = images.shape[0]
        none = jnp.zeros(batch, jnp.int32)
        nothing = BestSoFar(images, jnp.zeros(batch, bool), none, jnp.zeros((), jnp.int32), jnp.ones(batch, bool))
        targets = likeliest_targets(logits, labels, logits.shape[-1] - 1)[self.target]
        return self._updated(nothing, images, logits, labels), targets

    def update_best(self, best: BestSoFar, candidates: Images, logits: Logits, labels: Labels) -> BestSoFar:
        """Count an evaluation, and remember the first candidate of each image that meets the criterion clearly."""
        return self._updated(best._replace(evaluations=best.evaluations + 1), candidates, logits, labels)

    def _updated(self, best: BestSoFar, candidates: Images, logits: Logits, labels: Labels) -> BestSoFar:
        """An input that needs no change has to meet the criterion by definition only, not beyond rounding."""
        unmoved = (candidates == best.adversarial).all(tuple(range(1, candidates.ndim)))
        met = clearly_met(self.criterion, logits, labels) | (unmoved & is_met(self.criterion, logits, labels))
        new = met & ~best.success
        return best._replace(
            adversarial=jnp.where(per_example(new, candidates), candidates, best.adversarial),
            success=best.success | new,
            first_success=jnp.where(new, best.evaluations, best.first_success),
            finite=best.finite & are_numbers(logits, labels),
        )

    def result(self, model: Model, images: Images, labels: Labels, state: Any) -> AttackResult:
        """What was found, as `state.best_so_far` remembers it."""
        del model, labels
        best: BestSoFar = state.best_so_far
        change = best.adversarial - images
        return AttackResult(
            adversarial=best.adversarial,
            success=best.success,
            norm=jnp.where(best.success, size(self.norm, change), jnp.inf),
            rms=jnp.where(best.success, rms(change), jnp.inf),
            first_success=jnp.where(best.success, best.first_success, best.evaluations),
            evaluations=jnp.broadcast_to(best.evaluations, best.success.shape),
            finite=best.finite,
        )

    def settled(self, state: Any) -> Bool[Array, "*batch"]:
        """The first success stays, so nothing is lost by stopping after it."""
        success: Array = state.best_so_far.success
        return success


@struct.dataclass(kw_only=True)
class RandomStart(FixedEpsilon):
    """Base of attacks that start at a random point of the ball, so that restarts may find more."""

    @property
    def is_random(self) -> bool:
        """The starting point is drawn."""
        return True

    @property
    def evaluations(self) -> int:
        """One each step, and one at the starting point."""
        return self.steps + 1

    def drawn(self, keys: Keys, images: Images) -> Perturbations:
        """For each image a draw from the ball of radius 1."""
        raise NotImplementedError


@struct.dataclass(kw_only=True)
class FixedEpsilonEnsemble(Ensemble):
    """Base of attacks with a fixed epsilon that are made of others.

    Attributes:
        eps: radius of the ball in its norm, on the images' scale; an L2 norm, not an RMS.
        norm: "L2" or "Linf".
        stay_in_range: keep perturbed images in [0,1].
    """

    eps: Number
    norm: NormLike = struct.field(pytree_node=False)
    stay_in_range: bool = struct.field(pytree_node=False, default=True)


@struct.dataclass(kw_only=True)
class Targets(FixedEpsilonEnsemble):
    """Base of attacks that go towards the likeliest other classes, one after another.

    Attributes:
        steps: towards each class.
        n_targets: how many classes to go to; fewer if the model has not so many.
    """

    steps: int = struct.field(pytree_node=False, default=100)
    n_targets: int = struct.field(pytree_node=False, default=9)

    def towards(self, rank: int) -> Attack:
        """The attack towards one class: 0 for the likeliest but the label, 1 for the next."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The attack's."""
        return self.towards(0).name

    def members(self, n_classes: int | None) -> tuple[Attack, ...]:
        """The attack towards each of its targets."""
        count = self.n_targets if n_classes is None else min(self.n_targets, n_classes - 1)
        return tuple(self.towards(rank) for rank in range(count))


def _is_count(value: Any) -> bool:
    try:
        return operator.index(value) >= 0
    except TypeError:
        return False


def steepest(norm: Norm, gradient: Perturbations) -> Perturbations:
    """Direction of steepest ascent, of length 1 in the norm however small the gradient is; zero stays zero."""
    return jnp.sign(gradient) if norm == "Linf" else unit_l2(gradient)


def random_direction(norm: Norm, keys: Keys, like: Perturbations) -> Perturbations:
    """A draw of length 1 in the norm for each key: values uniform before scaling (L∞), every direction alike (L2)."""
    shape, dtype = like.shape[1:], like.dtype
    if norm == "L2":
        return unit_l2(jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys))
    drawn = jax.vmap(lambda key: jax.random.uniform(key, shape, dtype, -1, 1))(keys)
    return drawn / per_example(linf_norm(drawn), drawn)
