"""σ-zero, then swaps of values, for L0: what a few gradients find first, thinned out and exchanged value by value.

Of this project. It begins as "σ-zero: gradient-based optimization of ℓ0-norm adversarial examples" (Cinà et al. 2025,
arXiv 2402.01879) does. σ-zero ends with nearly every value that it moves at a limit of the box, and where it ends is
chance. From there on an attack is a choice of values, and this one searches among choices as tabu search does (Glover
1989, "Tabu search, part I"): gradients tell, to first order, the moved values whose way back costs least, and those
whose way to their limit gains most.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from advx_jax.attacks.arrays import Counts, Images, Keys, Labels, Mask, Perturbations, Values
from advx_jax.attacks.base import Model, Number
from advx_jax.attacks.minimum_norm import SmallestSoFar
from advx_jax.attacks.norms import per_example
from advx_jax.attacks.projections import l0_norm, room_in_box
from advx_jax.attacks.sigma_zero import SigmaZero, SigmaZeroState

# So many steps of 100 are σ-zero's.
_DESCENT_PERCENT = 20


class SwapsState(NamedTuple):
    """State between two steps.

    Attributes:
        descent: σ-zero's; its perturbation is the one to be evaluated next, also where values are swapped.
        resting: the step from which on a value may be moved again.
    """

    descent: SigmaZeroState
    resting: Int[Array, "batch *shape"]

    @property
    def perturbation(self) -> Perturbations:
        """To be evaluated next."""
        return self.descent.perturbation

    @property
    def best_so_far(self) -> SmallestSoFar:
        """The smallest success."""
        return self.descent.best_so_far


class _Turn(NamedTuple):
    """What one step may do with an example.

    Attributes:
        undone: how many moved values go back, without others in their place.
        swapped: how many more go back at most, each for another one that gains more.
        added: how many more are moved, without others going back.
        slack: by how much the margin may rise before the success is lost; 0 where it is lost.
    """

    undone: Counts
    swapped: Counts
    added: Counts
    slack: Values


@struct.dataclass(kw_only=True)
class SigmaZeroSwaps(SigmaZero):
    """The attack's settings beside those of σ-zero; shares are of the values that the smallest success changes.

    Values are swapped at the limits of the box, so that it always stays in [0,1].

    Attributes:
        steps: 20% of them σ-zero's, and where that finds no success, until there is one.
        swapped_share: of the values, so many are swapped in the first step that swaps, falling evenly to one value.
        undone_share: so many go back after a success, falling evenly to one value at half of the steps that swap.
        rest: for so many steps a value that was moved is left alone, or the next one would undo it; few, for of the
            moved ones there are so few that soon none would be left to choose from.
        rest_back: the same for one that was moved back.
    """

    needs_box = True

    steps: int = struct.field(pytree_node=False, default=125)
    swapped_share: Number = 0.12
    undone_share: Number = 0.06
    rest: int = struct.field(pytree_node=False, default=3)
    rest_back: int = struct.field(pytree_node=False, default=10)

    @property
    def name(self) -> str:
        """After σ-zero."""
        return "sigma-zero-swaps"

    @property
    def descent_steps(self) -> int:
        """σ-zero's."""
        return max(1, self.steps * _DESCENT_PERCENT // 100)

    def init(self, model: Model, images: Images, labels: Labels, keys: Keys | None) -> SwapsState:  # type: ignore[override]  # more of it
        """State before the first step: no perturbation, and nothing random in it."""
        return SwapsState(super().init(model, images, labels, keys), jnp.zeros(images.shape, jnp.int32))

    def step(self, model: Model, images: Images, labels: Labels, state: SwapsState) -> SwapsState:  # type: ignore[override]  # more of it
        """Look, and descend or, where there is something to swap, swap."""
        before = state.descent
        swaps = (before.step >= self.descent_steps) & jnp.isfinite(before.best_so_far.norm)

        def looked(perturbation: Array) -> tuple[Array, tuple[Array, Array]]:
            logits = model(images + perturbation)
            margin = self.criterion.margin(logits, labels)
            # Beyond the boundary σ-zero asks the network nothing; which values hold the success there, swaps have to.
            total = jnp.where(swaps, margin, self.descended(perturbation, logits, labels)).sum()
            return total, (logits, margin)

        gradient, (logits, margin) = jax.grad(looked, has_aux=True)(before.perturbation)
        best, success = self.update_best(before.best_so_far, before.perturbation, logits, labels)
        descent = self.moved(images, before, gradient, best, success)
        turn = self._turn(before, best, success, margin)
        swap = functools.partial(_swapped, before.step, (self.rest, self.rest_back))
        swapped, resting = jax.vmap(swap)(
            before.perturbation, gradient, room_in_box(images, -gradient), state.resting, turn
        )
        # Swaps begin at the smallest success.
        begins = (descent.step >= self.descent_steps) & jnp.isfinite(best.norm)
        perturbation = jnp.where(per_example(begins, images), best.perturbation, descent.perturbation)
        perturbation = jnp.where(per_example(swaps, images), swapped, perturbation)
        resting = jnp.where(per_example(swaps, images), resting, state.resting)
        return SwapsState(descent._replace(perturbation=perturbation), resting)

    def _turn(self, before: SigmaZeroState, best: SmallestSoFar, success: Mask, margin: Values) -> _Turn:
        """After a success fewer values are tried, after a failure others, and one more if there is one to spare."""
        changed, smallest = l0_norm(before.perturbation), jnp.where(jnp.isfinite(best.norm), best.norm, 0)
        progress = (before.step - self.descent_steps) / max(1, self.steps - self.descent_steps)
        undone = jnp.maximum(jnp.floor(self.undone_share * smallest * jnp.maximum(1 - 2 * progress, 0)), 1)
        swapped = jnp.maximum(jnp.round(self.swapped_share * smallest * (1 - progress)), 1)
        most = jnp.maximum(changed - 1, 0)
        return _Turn(
            undone=jnp.clip(jnp.where(success, undone, 0), 0, most).astype(jnp.int32),
            swapped=swapped.astype(jnp.int32),
            added=(~success & (changed < smallest - 1)).astype(jnp.int32),
            slack=jnp.where(success, jnp.maximum(-margin, 0), 0),
        )


def _swapped(
    step: Int[Array, ""],
    rests: tuple[int, int],
    perturbation: Float[Array, "*shape"],
    gradient: Float[Array, "*shape"],
    room: Float[Array, "*shape"],
    resting: Int[Array, "*shape"],
    turn: _Turn,
) -> tuple[Float[Array, "*shape"], Int[Array, "*shape"]]:
    """Of one example: the values after a turn, and until when each rests; `rests` of those moved and moved back."""
    shape, resting = perturbation.shape, resting.reshape(-1)
    moved, gradient, room = perturbation.reshape(-1), gradient.reshape(-1), room.reshape(-1)
    free, is_moved = resting <= step, moved != 0
    # What the margin loses, to first order, where a value goes back, and what it gains where one goes to its limit.
    loss = jnp.where(free & is_moved, -gradient * moved, jnp.inf)
    gain = jnp.where(free & ~is_moved, jnp.abs(gradient) * room, -jnp.inf)
    back, away = jnp.argsort(loss), jnp.argsort(-gain)
    losses, gains = loss[back], gain[away]
    places = jnp.arange(moved.size)
    # With slack left more values go back than the turn asks for, but never all.
    cheap = (turn.slack > 0) * jnp.sum(jnp.cumsum(losses) <= turn.slack)
    undone = jnp.minimum(jnp.maximum(turn.undone, cheap), jnp.maximum(is_moved.sum() - 1, 0))
    undone = jnp.minimum(undone, jnp.isfinite(losses).sum())
    added = jnp.minimum(turn.added, jnp.isfinite(gains).sum())
    lost, gained = jnp.roll(losses, -undone), jnp.roll(gains, -added)
    # One swap is made even if it does not pay, or a search that has come to rest would look at one choice for ever.
    pays = jnp.isfinite(lost) & jnp.isfinite(gained) & ((gained > lost) | (places == 0))
    n_swapped = (pays & (places < turn.swapped) & (places < moved.size - jnp.maximum(undone, added))).sum()
    chosen = jnp.zeros(moved.shape, bool)
    goes_back = chosen.at[back].set(places < undone + n_swapped)
    goes_away = chosen.at[away].set(places < n_swapped + added)
    limit = -jnp.sign(gradient) * room
    after = jnp.where(goes_away, limit, jnp.where(goes_back, 0, moved))
    rest, rest_back = rests
    resting = jnp.where(goes_back, step + rest_back, jnp.where(goes_away, step + rest, resting))
    return after.reshape(shape), resting.reshape(shape)
