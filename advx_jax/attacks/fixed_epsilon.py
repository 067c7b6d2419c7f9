"""What attacks with a fixed epsilon share: the ball, the box, targets in turn, and what they remember."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from advx_jax.attacks.base import Attack, AttackResult, Model, Number
from advx_jax.attacks.criteria import are_numbers, clearly_met, is_met
from advx_jax.attacks.ensemble import Ensemble
from advx_jax.attacks.losses import likeliest_targets
from advx_jax.attacks.norms import per_example, rms
from advx_jax.attacks.projections import Norm, NormLike, clipped, linf_norm, project, size, unit_l2


class Found(NamedTuple):
    """The first success so far, per example.

    Attributes:
        adversarial: an image within the ball that met the criterion; the unperturbed image if there was none.
        success: whether there was one.
        first_success: evaluations before it; all so far if there was none.
        evaluations: made so far, of each example.
        finite: no logit was NaN, nor infinite where that decides.
    """

    adversarial: Float[Array, "batch *shape"]
    success: Bool[Array, " batch"]
    first_success: Int[Array, " batch"]
    evaluations: Int[Array, ""]
    finite: Bool[Array, " batch"]


@struct.dataclass(kw_only=True)
class FixedEpsilon(Attack):
    """Base of attacks that look for an image over the boundary within a ball, and within [0,1].

    Attributes:
        eps: radius of the ball in its norm, on the images' scale; an L2 norm, not an RMS.
        norm: "L2" or "Linf".
        steps: with one gradient each, or one query of a black box.
        stay_in_range: keep perturbed images in [0,1].
        target: of a targeted attack, which class to go to: 0 for the likeliest but the label, 1 for the next.
    """

    eps: Number
    norm: NormLike = struct.field(pytree_node=False)
    steps: int = struct.field(pytree_node=False)
    stay_in_range: bool = struct.field(pytree_node=False, default=True)
    target: int | Array = 0

    def within(
        self, images: Float[Array, "batch *shape"], candidates: Float[Array, "batch *shape"]
    ) -> Float[Array, "batch *shape"]:
        """Bring candidates back into the ball around their images, and then into [0,1] if they have to stay there.

        The second only moves them towards their images, so they stay in the ball.
        """
        moved = images + project(self.norm, candidates - images, self.eps)
        return clipped(images, moved) if self.stay_in_range else moved

    def look_at_inputs(
        self, model: Model, images: Float[Array, "batch *shape"], labels: Int[Array, " batch"]
    ) -> tuple[Found, Int[Array, " batch"]]:
        """What is known before the first step: an input over the boundary needs no change; and the targets."""
        logits = model(images)
        batch = images.shape[0]
        none = jnp.zeros(batch, jnp.int32)
        nothing = Found(images, jnp.zeros(batch, bool), none, jnp.zeros((), jnp.int32), jnp.ones(batch, bool))
        targets = likeliest_targets(logits, labels, logits.shape[-1] - 1)[self.target]
        return self.look(nothing, images, logits, labels), targets

    def look(
        self,
        found: Found,
        candidates: Float[Array, "batch *shape"],
        logits: Float[Array, "batch classes"],
        labels: Int[Array, " batch"],
    ) -> Found:
        """Remember the first candidate of each image that meets the criterion: clearly so, unless it is the input."""
        unmoved = (candidates == found.adversarial).all(tuple(range(1, candidates.ndim)))
        met = clearly_met(self.criterion, logits, labels) | (unmoved & is_met(self.criterion, logits, labels))
        new = met & ~found.success
        return found._replace(
            adversarial=jnp.where(per_example(new, candidates), candidates, found.adversarial),
            success=found.success | new,
            first_success=jnp.where(new, found.evaluations, found.first_success),
            finite=found.finite & are_numbers(logits, labels),
        )

    def result(
        self, model: Model, images: Float[Array, "batch *shape"], labels: Int[Array, " batch"], state: Any
    ) -> AttackResult:
        """What was found, as `state.found` remembers it."""
        del model, labels
        found: Found = state.found
        change = found.adversarial - images
        return AttackResult(
            adversarial=found.adversarial,
            success=found.success,
            norm=jnp.where(found.success, size(self.norm, change), jnp.inf),
            rms=jnp.where(found.success, rms(change), jnp.inf),
            first_success=jnp.where(found.success, found.first_success, found.evaluations),
            evaluations=jnp.broadcast_to(found.evaluations, found.success.shape),
            finite=found.finite,
        )

    def settled(self, state: Any) -> Bool[Array, "*batch"]:
        """The first success stays, so nothing is lost by stopping after it."""
        success: Array = state.found.success
        return success


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


def steepest(norm: Norm, gradient: Float[Array, "batch *shape"]) -> Float[Array, "batch *shape"]:
    """Direction of steepest ascent, of length 1 in the norm however small the gradient is; zero stays zero."""
    return jnp.sign(gradient) if norm == "Linf" else unit_l2(gradient)


def random_direction(
    norm: Norm, keys: Key[Array, " batch"], like: Float[Array, "batch *shape"]
) -> Float[Array, "batch *shape"]:
    """A draw of length 1 in the norm for each key: values uniform before scaling (L∞), every direction alike (L2)."""
    shape, dtype = like.shape[1:], like.dtype
    if norm == "L2":
        return unit_l2(jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys))
    drawn = jax.vmap(lambda key: jax.random.uniform(key, shape, dtype, -1, 1))(keys)
    return drawn / per_example(linf_norm(drawn), drawn)
