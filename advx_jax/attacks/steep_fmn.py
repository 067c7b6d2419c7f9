"""FMN with the steps of APGD: steepest in the norm that is minimised, in proportion to the ball, and with momentum.

The search for the radius is that of FMN (Pintor et al. 2021, arXiv 2102.12827, algorithm 1). Steps in L∞ move all
values by the same, as in "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks" (Croce and Hein 2020, arXiv 2003.01690, algorithm 1), whose momentum is taken too. Steps in L1 move few
values, as in "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers" (Croce and Hein 2021, arXiv
2103.01208, section 3), and go back to the nearest point in ball and box together.
"""

import math
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from flax import struct

from advx_jax.attacks.arrays import Images, Keys, Labels, Perturbations, Values
from advx_jax.attacks.base import Model, Number
from advx_jax.attacks.fixed_epsilon import steepest
from advx_jax.attacks.fmn import FMN
from advx_jax.attacks.minimum_norm import SearchState, SmallestSoFar
from advx_jax.attacks.norms import per_example
from advx_jax.attacks.projections import Norm, clip_to_box, l0_norm, project, project_l0, project_l1, room_in_box

# In L1: how many times as many values as a step moves the smallest success changes, and which share moves before it.
_CHANGED_OVER_MOVED, _FIRST_SHARE = 1.5, 0.2


class SteepState(NamedTuple):
    """State between two steps.

    Attributes:
        search: as FMN has it.
        previous: the perturbation before the last step.
    """

    search: SearchState
    previous: Perturbations

    @property
    def perturbation(self) -> Perturbations:
        """To be evaluated next."""
        return self.search.perturbation

    @property
    def best_so_far(self) -> SmallestSoFar:
        """The smallest success."""
        return self.search.best_so_far


@struct.dataclass(kw_only=True)
class SteepFMN(FMN):
    """The attack's settings; lengths of steps are sizes in the norm.

    Attributes:
        norm: "L1", "L2" or "Linf".
        inertia: of each move so much is the step's, and the rest the move before; 1 for no momentum.
        relative: step lengths are fractions of the ball's radius.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("L1", "L2", "Linf")

    inertia: Number = 0.75
    relative: bool = struct.field(pytree_node=False, default=True)

    @property
    def name(self) -> str:
        """As results know it."""
        return "fmn-steep"

    def init(self, model: Model, images: Images, labels: Labels, keys: Keys | None) -> SteepState:
        """State before the first step: no perturbation, and nothing random in it."""
        return SteepState(super().init(model, images, labels, keys), jnp.zeros_like(images))

    def step(  # type: ignore[override]  # its own state
        self, model: Model, images: Images, labels: Labels, state: SteepState
    ) -> SteepState:
        """Look, change the radius, follow the gradient and the move before, and go back into the ball."""
        gradient, lengths, radius, best = self.look(model, images, labels, state.search)
        here = state.perturbation
        direction = _sparse(gradient, best) if self.norm == "L1" else steepest(self.norm, gradient)
        plain = self._within(images, here - per_example(lengths, here) * direction, radius)
        inertia = jnp.where(state.search.step > 0, self.inertia, 1).astype(here.dtype)
        moved = here + inertia * (plain - here) + (1 - inertia) * (here - state.previous)
        search = SearchState(state.search.step + 1, self._within(images, moved, radius), radius, best)
        return SteepState(search, here)

    def reach(self, images: Images, radius: Values) -> Values:
        """As long as the ball is wide."""
        del images
        return radius

    def _within(self, images: Images, perturbation: Perturbations, radius: Values) -> Perturbations:
        if self.norm == "L1" and self.stay_in_range:
            nearest = project_l1(perturbation, radius, room_in_box(images, perturbation))
            return clip_to_box(images, nearest)
        return self.project(images, project(self.norm, perturbation, radius))


def _sparse(gradient: Perturbations, best: SmallestSoFar) -> Perturbations:
    """A direction of length 1 in L1: the steepest values, all alike."""
    after = jnp.floor(l0_norm(best.perturbation) / _CHANGED_OVER_MOVED)
    moved = jnp.where(jnp.isfinite(best.norm), after, math.ceil(_FIRST_SHARE * gradient[0].size))
    direction = jnp.sign(project_l0(gradient, jnp.maximum(moved, 1)))
    return direction / per_example(jnp.maximum(l0_norm(direction), 1), direction)
