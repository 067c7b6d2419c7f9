"""Projected gradient descent (PGD): steps of one length along the gradient, back into the ball after each.

From "Towards deep learning models resistant to adversarial attacks" (Madry, Makelov, Schmidt, Tsipras and
Vladu 2018, arXiv 1706.06083), section 2.1.
"""

from typing import NamedTuple

import jax
from flax import struct
from jaxtyping import Array, Float, Key

from advx_jax.attacks.arrays import Images, Keys, Labels, Perturbations
from advx_jax.attacks.base import Model
from advx_jax.attacks.fixed_epsilon import BestSoFar, RandomStart, random_direction, steepest
from advx_jax.attacks.losses import loss_and_gradient
from advx_jax.attacks.projections import Norm

# Madry et al.: steps long enough to cross the ball from any starting point and still move about.
_PATH_OVER_EPS = 2.5


class PGDState(NamedTuple):
    """State between two steps.

    Attributes:
        iterate: the point to step from.
        gradient: of the cross-entropy there.
        best_so_far: the first success.
    """

    iterate: Images
    gradient: Perturbations
    best_so_far: BestSoFar


@struct.dataclass(kw_only=True)
class PGD(RandomStart):
    """PGD on the cross-entropy, from a point that is uniform in the ball; each step is 2.5·eps over their number."""

    steps: int = struct.field(pytree_node=False, default=40)

    def init(self, model: Model, images: Images, labels: Labels, keys: Keys) -> PGDState:
        """State before the first step."""
        return self.init_at(model, images, labels, images + self.eps * self.drawn(keys, images))

    def drawn(self, keys: Keys, images: Images) -> Perturbations:
        """Uniform in the ball."""
        return jax.vmap(lambda key, image: _uniform_in_unit_ball(self.norm, key, image))(keys, images)

    def init_at(self, model: Model, images: Images, labels: Labels, initial: Images) -> PGDState:
        """State before the first step, at points of one's own (brought into the ball)."""
        best, _ = self.initial_best(model, images, labels)
        return self._arrive(model, labels, self.project(images, initial), best)

    def step(self, model: Model, images: Images, labels: Labels, state: PGDState) -> PGDState:
        """Follow the gradient, and evaluate the point reached."""
        step_size = _PATH_OVER_EPS * self.eps / self.steps
        new = self.project(images, state.iterate + step_size * steepest(self.norm, state.gradient))
        return self._arrive(model, labels, new, state.best_so_far)

    def _arrive(self, model: Model, labels: Array, points: Array, best: BestSoFar) -> PGDState:
        towards = self.criterion.towards_label
        _, gradient, logits = loss_and_gradient("cross_entropy", model, points, labels, labels, towards)
        return PGDState(points, gradient, self.update_best(best, points, logits, labels))


def _uniform_in_unit_ball(norm: Norm, key: Key[Array, ""], like: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    if norm == "Linf":
        return jax.random.uniform(key, like.shape, like.dtype, -1, 1)
    # The part of a ball within radius r grows as r to the power of its dimension.
    direction_key, radius_key = jax.random.split(key)
    radius = jax.random.uniform(radius_key, (), like.dtype) ** (1 / like.size)
    return radius * random_direction("L2", direction_key[None], like[None])[0]
