"""APGD in L1 in three balls, each smaller than the one before: the way that AutoAttack runs it.

From "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers" (Croce and Hein 2021, arXiv 2103.01208,
section 3.3): in the larger balls the loss is easier to climb, and the best point of each, projected, is a better one to
begin at. Only points within eps count.
"""

import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int

from advx_jax.attacks.apgd import APGD, APGDT, APGDState, sparsity_of, sparsity_window
from advx_jax.attacks.arrays import Images, Keys, Labels
from advx_jax.attacks.base import Model
from advx_jax.attacks.eot import FrailestSoFar
from advx_jax.attacks.fixed_epsilon import BestSoFar
from advx_jax.attacks.projections import l0_norm

# The paper's: radii over eps, and the shares of all steps in the first two; the rest is for the last.
_RADII, _SHARES = (3.0, 2.0, 1.0), (0.3, 0.3)


class Plan(NamedTuple):
    """What each step is, those to the beginnings of the later phases among them.

    Attributes:
        phase: whose it is.
        made: steps that were made of the phase; -1 for the one to its beginning.
        lengths: steps of each phase.
    """

    phase: Int[np.ndarray, " n"]
    made: Int[np.ndarray, " n"]
    lengths: tuple[int, ...]


def planned(steps: int) -> Plan:
    """Share steps out to the phases."""
    early: list[int] = []
    for share in _SHARES:
        early.append(min(math.ceil(share * steps), steps - sum(early)))
    lengths = (*early, steps - sum(early))
    made = [np.arange(0 if place == 0 else -1, length) for place, length in enumerate(lengths)]
    phase = [np.full(len(steps_made), place) for place, steps_made in enumerate(made)]
    return Plan(np.concatenate(phase), np.concatenate(made), lengths)


@struct.dataclass(kw_only=True)
class _Phase(APGD):
    """APGD in one of the balls.

    Attributes:
        checks: after how many steps sparsity is looked at.
        counts: whether successes do; those out of the last ball do not.
    """

    checks: int | Array = 1
    counts: bool | Array = True

    def checked_each(self) -> int | Array:
        """As the phase's length wants it."""
        return self.checks

    def remembered(
        self, best: BestSoFar | FrailestSoFar, candidates: Images, logits: Array, labels: Labels
    ) -> BestSoFar | FrailestSoFar:
        """Count evaluations, and a success if it is one within eps."""
        looked = super().remembered(best, candidates, logits, labels)
        otherwise = best._replace(evaluations=looked.evaluations, finite=looked.finite)
        chosen: BestSoFar | FrailestSoFar = jax.tree.map(
            lambda new, old: jnp.where(self.counts, new, old), looked, otherwise
        )
        return chosen


@struct.dataclass(kw_only=True)
class PhasedAPGD(APGD):
    """APGD in balls of three, two and one times eps.

    Attributes:
        norm: "L1".
        steps: of all phases together; each later phase evaluates its beginning besides.
    """

    norms: ClassVar[tuple[str, ...]] = ("L1",)

    @property
    def n_steps(self) -> int:
        """Those of the phases, and one to the beginning of each but the first."""
        return self.steps + len(_RADII) - 1

    @property
    def evaluations(self) -> int:
        """One each step, and one at the starting point, for each draw."""
        return (self.n_steps + 1) * self.eot

    def _phase(self, place: int | Int[Array, ""]) -> _Phase:
        checks = [sparsity_window(length) for length in planned(self.steps).lengths]
        return _Phase(
            eps=self.eps * jnp.asarray(_RADII)[place],
            norm=self.norm,
            steps=self.steps,
            stay_in_range=self.stay_in_range,
            loss=self.loss,
            eot=self.eot,
            target=self.target,
            criterion=self.criterion,
            checks=jnp.asarray(checks)[place],
            counts=jnp.arange(len(_RADII))[place] == len(_RADII) - 1,
        )

    def init(self, model: Model, images: Images, labels: Labels, keys: Keys) -> APGDState:
        """State before the first step, at a draw in the largest ball."""
        return self.init_at(model, images, labels, self.start(keys, images), keys)

    def init_at(
        self, model: Model, images: Images, labels: Labels, initial: Images, keys: Keys | None = None
    ) -> APGDState:
        """State before the first step, at points of one's own (brought into the largest ball)."""
        state = self._phase(0).init_at(model, images, labels, initial, keys)
        return state._replace(sparsity=sparsity_of(l0_norm(state.iterate - images)))

    def step(self, model: Model, images: Images, labels: Labels, state: APGDState) -> APGDState:
        """A step of the phase; or one to the best point so far, in the next ball, where a phase begins."""
        plan = planned(self.steps)
        phase, made = (jnp.asarray(column)[state.step] for column in (plan.phase, plan.made))
        run, begins = self._phase(phase), made < 0
        nowhere = state._replace(
            iterate=state.best,
            previous=state.best,
            gradient=jnp.zeros_like(images),
            best_loss=jnp.full_like(state.best_loss, -jnp.inf),
            step_size=jnp.zeros_like(state.step_size),
        )
        before: APGDState = jax.tree.map(lambda new, old: jnp.where(begins, new, old), nowhere, state)
        after = run.step(model, images, labels, before._replace(step=made))
        step_size, _ = run.first_step(images)
        begun = after._replace(
            best=after.iterate,
            best_gradient=after.gradient,
            best_loss=after.last_loss,
            step_size=step_size,
            sparsity=sparsity_of(l0_norm(after.iterate - images)),
        )
        chosen: APGDState = jax.tree.map(lambda new, old: jnp.where(begins, new, old), begun, after)
        return chosen._replace(step=state.step + 1)


@struct.dataclass(kw_only=True)
class PhasedAPGDT(APGDT):
    """The same towards the likeliest other classes one after another; AutoAttack goes towards five in L1.

    Attributes:
        norm: "L1".
    """

    norms: ClassVar[tuple[str, ...]] = PhasedAPGD.norms
    ascent: ClassVar[type[APGD]] = PhasedAPGD

    n_targets: int = struct.field(pytree_node=False, default=5)
