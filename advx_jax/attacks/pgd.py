"""Projected gradient descent (PGD): steps of one length along the gradient, back into the ball after each.

From "Towards deep learning models resistant to adversarial attacks" (Madry, Makelov, Schmidt, Tsipras and
Vladu 2018, arXiv 1706.06083).
"""

from typing import NamedTuple

import jax
from flax import struct
from jaxtyping import Array, Float, Int, Key

from advx_jax.attacks.base import Model
from advx_jax.attacks.fixed_epsilon import FixedEpsilon, Found, random_direction, steepest
from advx_jax.attacks.losses import climb
from advx_jax.attacks.projections import Norm

# Madry et al.: steps long enough to cross the ball from any starting point and still move about.
_PATH_OVER_EPS = 2.5


class PGDState(NamedTuple):
    """State between two steps.

    Attributes:
        iterate: the point to step from.
        gradient: of the cross-entropy there.
        found: the first success.
    """

    iterate: Float[Array, "batch *shape"]
    gradient: Float[Array, "batch *shape"]
    found: Found


@struct.dataclass(kw_only=True)
class PGD(FixedEpsilon):
    """PGD on the cross-entropy, from a point that is uniform in the ball; each step is 2.5·eps over their number."""

    steps: int = struct.field(pytree_node=False, default=40)

    @property
    def is_random(self) -> bool:
        """The starting point is drawn."""
        return True

    @property
    def evaluations(self) -> int:
        """A gradient each step, and one at the starting point."""
        return self.steps + 1

    def init(
        self,
        model: Model,
        images: Float[Array, "batch *shape"],
        labels: Int[Array, " batch"],
        keys: Key[Array, " batch"],
    ) -> PGDState:
        """State before the first step."""
        drawn = jax.vmap(lambda key, image: _uniform_in_unit_ball(self.norm, key, image))(keys, images)
        return self.init_at(model, images, labels, images + self.eps * drawn)

    def init_at(
        self,
        model: Model,
        images: Float[Array, "batch *shape"],
        labels: Int[Array, " batch"],
        initial: Float[Array, "batch *shape"],
    ) -> PGDState:
        """State before the first step, at points of one's own (brought into the ball)."""
        found, _ = self.look_at_inputs(model, images, labels)
        return self._arrive(model, labels, self.within(images, initial), found)

    def step(
        self, model: Model, images: Float[Array, "batch *shape"], labels: Int[Array, " batch"], state: PGDState
    ) -> PGDState:
        """Follow the gradient and look at the point reached."""
        step_size = _PATH_OVER_EPS * self.eps / self.steps
        new = self.within(images, state.iterate + step_size * steepest(self.norm, state.gradient))
        return self._arrive(model, labels, new, state.found)

    def _arrive(self, model: Model, labels: Array, points: Array, found: Found) -> PGDState:
        _, gradient, logits = climb("cross_entropy", model, points, labels, labels)
        found = found._replace(evaluations=found.evaluations + 1)
        return PGDState(points, gradient, self.look(found, points, logits, labels))


def _uniform_in_unit_ball(norm: Norm, key: Key[Array, ""], like: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    if norm == "Linf":
        return jax.random.uniform(key, like.shape, like.dtype, -1, 1)
    # The part of a ball within radius r grows as r to the power of its dimension.
    direction_key, radius_key = jax.random.split(key)
    radius = jax.random.uniform(radius_key, (), like.dtype) ** (1 / like.size)
    return radius * random_direction("L2", direction_key[None], like[None])[0]
