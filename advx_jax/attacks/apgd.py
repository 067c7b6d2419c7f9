"""Auto-PGD: gradient ascent with momentum that halves its steps when the loss no longer rises.

From "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks" (Croce and Hein 2020, arXiv 2003.01690), section 3 and algorithm 1; the targeted loss is of its section 4.
Random networks it climbs by expectation over transformation (see `eot.py`).
In L1 its steps are sparse: "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers" (Croce and Hein
2021, arXiv 2103.01208), section 3 and algorithm 1.
"""

import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int

from advx_jax.attacks.arrays import Counts, Images, Keys, Labels, Mask, Perturbations, Values
from advx_jax.attacks.base import AttackResult, Model, example_keys
from advx_jax.attacks.eot import UNPERTURBED, FrailestSoFar, drawn_logits, mean_loss_and_gradient, none_so_far
from advx_jax.attacks.fixed_epsilon import BestSoFar, RandomStart, Targets, random_direction, steepest
from advx_jax.attacks.losses import CLASSES_NEEDED, LossName, likeliest_targets, loss_and_gradient
from advx_jax.attacks.norms import per_example
from advx_jax.attacks.projections import l0_norm, project_l0
from advx_jax.errors import UserError
from advx_jax.networks.random_classifier import RandomClassifier

# The paper's: α of the momentum, ρ of the condition on rises, the first step over eps, and the
# lengths of the first window, of the shortest, and by how much each is shorter, over all steps.
_INERTIA, _RISES, _FIRST_STEP = 0.75, 0.75, 2.0
_FIRST_WINDOW, _SHORTEST_WINDOW, _WINDOW_SHRINKS = 0.22, 0.06, 0.03
# In L1, the 2021 paper's: the first step over eps, and the share of values that it moves; how many times as many values
# as steps move the best point changes; how much sparser that has to become for steps to be long again; by how much they
# shrink otherwise, down to which part of the first; and how often over all steps that is looked at.
_FIRST_STEP_L1, _FIRST_SHARE, _CHANGED_OVER_MOVED, _SPARSER = 1.0, 0.2, 1.5, 0.95
_STEP_SHRINKS, _SHORTEST_STEP, _WINDOW_L1 = 1.5, 0.1, 0.04


class Sparsity(NamedTuple):
    """What steps in L1 know besides.

    Attributes:
        moved: how many values a step moves.
        changed: how many the best point changed at the last checkpoint.
    """

    moved: Values
    changed: Values


class APGDState(NamedTuple):
    """State between two steps.

    Attributes:
        step: number of steps made.
        iterate: the point to step from.
        previous: the point before it.
        targets: the class to go to, for each example; looked at by the targeted loss only.
        gradient: of the loss at the iterate.
        best: the point with the largest loss so far.
        best_gradient: of the loss there.
        best_loss: there.
        last_loss: at the point evaluated last.
        step_size: in the ball's norm.
        rises: how often the loss rose since the last checkpoint.
        best_at_check: the largest loss at the last checkpoint.
        halved_at_check: whether the step was halved at the last checkpoint.
        best_so_far: the first success; of draws the point where most were one.
        sparsity: in L1; None in other norms.
        keys: of the network's draws; None where there are none.
    """

    step: Int[Array, ""]
    iterate: Images
    previous: Images
    targets: Labels
    gradient: Perturbations
    best: Images
    best_gradient: Perturbations
    best_loss: Values
    last_loss: Values
    step_size: Values
    rises: Counts
    best_at_check: Values
    halved_at_check: Mask
    best_so_far: BestSoFar | FrailestSoFar
    sparsity: Sparsity | None
    keys: Keys | None


def checkpoints(steps: int) -> Int[np.ndarray, " steps"]:
    """Length of the window that ends with each step; 0 where none does.

    Windows start at 22 % of all steps and get shorter by 3 % each, down to 6 %.
    """
    window, shortest = max(int(_FIRST_WINDOW * steps), 1), max(int(_SHORTEST_WINDOW * steps), 1)
    shrinks = max(int(_WINDOW_SHRINKS * steps), 1)
    ends = np.zeros(steps, np.int32)
    end = window
    while end <= steps:
        ends[end - 1] = window
        window = max(window - shrinks, shortest)
        end += window
    return ends


def sparsity_window(steps: int) -> int:
    """In L1, after how many steps of so many it is looked whether the best point became sparser."""
    return max(int(_WINDOW_L1 * steps), 1)


@struct.dataclass(kw_only=True)
class APGD(RandomStart):
    """APGD from a random point on the surface of the ball.

    A random network (`from_random_function`) it attacks by expectation over transformation: each step follows the
    gradient's mean over `eot` draws, and the mean of their losses says which point is best and whether the loss rises.
    What counts then: of all points, the one at which most of a step's draws were misclassified (of equal ones, the one
    with the least mean margin) is looked at with one more draw, which led to no point. If that one is misclassified,
    the image is broken, else it stands. The unperturbed image is among the points.

    Attributes:
        norm: "L1", "L2" or "Linf".
        steps: AutoAttack makes 100.
        loss: what to climb: "cross_entropy" (AutoAttack's APGD-CE), "dlr" (its APGD-DLR), "margin", or "targeted_dlr"
            towards one class (see `APGDT` for several).
        eot: draws for each gradient; AutoAttack makes 20 for random networks. More than one are made of a network that
            draws nothing, too.
    """

    norms: ClassVar[tuple[str, ...]] = ("L1", "L2", "Linf")

    steps: int = struct.field(pytree_node=False, default=100)
    loss: LossName = struct.field(pytree_node=False, default="cross_entropy")
    eot: int = struct.field(pytree_node=False, default=1)

    @property
    def takes_random(self) -> bool:
        """It knows that answers are draws."""
        return True

    @property
    def evaluations(self) -> int:
        """One each step, and one at the starting point, for each draw."""
        return super().evaluations * self.eot

    @property
    def name(self) -> str:
        """As the field names it."""
        return {"cross_entropy": "apgd-ce", "targeted_dlr": "apgd-t"}.get(self.loss, f"apgd-{self.loss}")

    def check(self, n_classes: int | None = None) -> None:
        """Refuse losses that there are none of, or too few classes for, or that have targets of their own.

        Raises:
            UserError: in one line.
        """
        super().check(n_classes)
        if self.loss not in CLASSES_NEEDED:
            raise UserError(f"expected one of {', '.join(CLASSES_NEEDED)} as the loss, got {self.loss!r}")
        needed = CLASSES_NEEDED[self.loss]
        if n_classes is not None and n_classes < needed:
            raise UserError(f"expected a model of at least {needed} classes for {self.name}, got {n_classes}")
        if self.loss == "targeted_dlr":
            self.refuse_targets()

    def init(self, model: Model, images: Images, labels: Labels, keys: Keys) -> APGDState:
        """State before the first step."""
        return self.init_at(model, images, labels, self.start(keys, images), keys)

    def start(self, keys: Keys, images: Images) -> Images:
        """Points to be brought into the ball, from which to begin."""
        drawn = self.drawn(keys, images)
        radius = jnp.broadcast_to(jnp.asarray(self.eps, images.dtype), images.shape[:1])
        return images + (drawn if self.norm == "L1" else per_example(radius, drawn) * drawn)

    def first_step(self, images: Images) -> tuple[Values, Sparsity | None]:
        """The first step size, and what steps in L1 know besides."""
        batch, sparsity, length = images.shape[0], None, _FIRST_STEP
        if self.norm == "L1":
            length = _FIRST_STEP_L1
            n_values = images[0].size
            moved = n_values - math.floor((1 - _FIRST_SHARE) * n_values)
            sparsity = Sparsity(*(jnp.full(batch, count, images.dtype) for count in (moved, n_values)))
        return jnp.full(batch, length, images.dtype) * self.eps, sparsity

    def drawn(self, keys: Keys, images: Images) -> Perturbations:
        """On the surface of the ball; in L1 far out of it, so that the nearest point in ball and box is sparse."""
        if self.norm == "L1":
            return jax.vmap(lambda key: jax.random.normal(key, images.shape[1:], images.dtype))(keys)
        return random_direction(self.norm, keys, images)

    def init_at(
        self, model: Model, images: Images, labels: Labels, initial: Images, keys: Keys | None = None
    ) -> APGDState:
        """State before the first step, at points of one's own (brought into the ball); keys: of a network's draws."""
        best_so_far: BestSoFar | FrailestSoFar
        if self.eot > 1 or isinstance(model, RandomClassifier):
            keys = example_keys(keys, jnp.arange(len(images)))
            drawn = drawn_logits(model, images, keys, UNPERTURBED, self.eot)
            best_so_far = none_so_far(images).updated(self.criterion, images, drawn, labels, counted=0)
            if not isinstance(model, RandomClassifier):
                best_so_far = best_so_far.kept_where_over()
            targets = likeliest_targets(drawn.mean(0), labels, drawn.shape[-1] - 1)[self.target]
        else:
            keys = None
            best_so_far, targets = self.initial_best(model, images, labels)
        initial = self.project(images, initial)
        values, gradient, logits = self._loss(model, initial, labels, targets, keys, best_so_far.evaluations)
        batch = images.shape[0]
        step_size, sparsity = self.first_step(images)
        return APGDState(
            step=jnp.zeros((), jnp.int32),
            iterate=initial,
            previous=initial,
            targets=targets,
            gradient=gradient,
            best=initial,
            best_gradient=gradient,
            best_loss=values,
            # The reference implementation compares the first step's loss with 0 instead of the one
            # before; so do we, to halve where it halves.
            last_loss=jnp.zeros_like(values),
            step_size=step_size,
            rises=jnp.zeros(batch, jnp.int32),
            best_at_check=values,
            halved_at_check=jnp.ones(batch, bool),
            best_so_far=self.remembered(best_so_far, initial, logits, labels),
            sparsity=sparsity,
            keys=keys,
        )

    def step(self, model: Model, images: Images, labels: Labels, state: APGDState) -> APGDState:
        """Climb with momentum; at a checkpoint go back to the best point and halve the step if the loss was stuck."""
        new = self._sparse(images, state) if self.norm == "L1" else self._with_momentum(images, state)
        values, gradient, logits = self._loss(
            model, new, labels, state.targets, state.keys, state.best_so_far.evaluations
        )

        better = values > state.best_loss
        state = state._replace(
            step=state.step + 1,
            iterate=new,
            previous=state.iterate,
            gradient=gradient,
            best=jnp.where(per_example(better, new), new, state.best),
            best_gradient=jnp.where(per_example(better, new), gradient, state.best_gradient),
            best_loss=jnp.where(better, values, state.best_loss),
            last_loss=values,
            rises=state.rises + (values > state.last_loss),
            best_so_far=self.remembered(state.best_so_far, new, logits, labels),
        )
        return self._checked_sparsity(images, state) if self.norm == "L1" else self._checked_rises(state)

    def remembered(
        self, best: BestSoFar | FrailestSoFar, candidates: Images, logits: Array, labels: Labels
    ) -> BestSoFar | FrailestSoFar:
        """Count evaluations, and remember the first success; of draws the point where most are over the boundary."""
        if isinstance(best, FrailestSoFar):
            return best.updated(self.criterion, candidates, logits, labels)
        return self.update_best(best, candidates, logits, labels)

    def result(self, model: Model, images: Images, labels: Labels, state: APGDState) -> AttackResult:
        """What was found; of draws what another one says of it."""
        if isinstance(state.best_so_far, FrailestSoFar):
            judged = state.best_so_far.judged(self.criterion, model, images, labels, state.keys)
            state = state._replace(best_so_far=judged)
        return super().result(model, images, labels, state)

    def checked_each(self) -> int | Array:
        """In L1, after how many steps it is looked whether the best point became sparser."""
        return sparsity_window(self.steps)

    def _with_momentum(self, images: Images, state: APGDState) -> Images:
        """The next point in L2 and L∞."""
        here = state.iterate
        # Some searches start anew at another step for each image.
        steps = jnp.broadcast_to(state.step, here.shape[:1])
        inertia = per_example(jnp.where(steps > 0, _INERTIA, 1).astype(images.dtype), here)
        uphill = here + per_example(state.step_size, here) * steepest(self.norm, state.gradient)
        plain = self.project(images, uphill)
        return self.project(images, here + inertia * (plain - here) + (1 - inertia) * (here - state.previous))

    def _sparse(self, images: Images, state: APGDState) -> Images:
        """The next point in L1: all values that move do so by the same."""
        moved = jnp.maximum(_known(state.sparsity).moved, 1)
        direction = jnp.sign(project_l0(state.gradient, moved))
        length = state.step_size / jnp.maximum(l0_norm(direction), 1)
        return self.project(images, state.iterate + per_example(length, direction) * direction)

    def _checked_rises(self, state: APGDState) -> APGDState:
        """At a checkpoint, half the step and the best point where the loss was stuck."""
        window = jnp.asarray(checkpoints(self.steps))[state.step - 1]
        stuck = ~state.halved_at_check & (state.best_at_check >= state.best_loss)
        halve = (window > 0) & ((state.rises <= _RISES * window) | stuck)
        return self._back(state, halve)._replace(
            step_size=jnp.where(halve, state.step_size / 2, state.step_size),
            rises=jnp.where(window > 0, 0, state.rises),
            best_at_check=jnp.where(window > 0, state.best_loss, state.best_at_check),
            halved_at_check=jnp.where(window > 0, halve, state.halved_at_check),
        )

    def _checked_sparsity(self, images: Images, state: APGDState) -> APGDState:
        """At a checkpoint, long steps and the best point where that became sparser, else shorter steps."""
        at_check = state.step % self.checked_each() == 0
        before = _known(state.sparsity)
        changed = l0_norm(state.best - images)
        sparser = changed < _SPARSER * before.changed
        longest = _FIRST_STEP_L1 * self.eps
        shorter = jnp.maximum(state.step_size / _STEP_SHRINKS, _SHORTEST_STEP * longest)
        looked = sparsity_of(changed)
        return self._back(state, at_check & sparser)._replace(
            step_size=jnp.where(at_check, jnp.where(sparser, longest, shorter), state.step_size),
            sparsity=jax.tree.map(lambda new, old: jnp.where(at_check, new, old), looked, before),
        )

    def _back(self, state: APGDState, chosen: Mask) -> APGDState:
        """At the best point, for the examples that are chosen."""
        back = per_example(chosen, state.best)
        return state._replace(
            iterate=jnp.where(back, state.best, state.iterate),
            gradient=jnp.where(back, state.best_gradient, state.gradient),
        )

    def _loss(
        self, model: Model, points: Array, labels: Array, targets: Array, keys: Keys | None, evaluations: Array
    ) -> tuple[Array, Array, Array]:
        what = self.loss, model, points, labels, targets, self.criterion.towards_label
        # The evaluations so far number the draws.
        return loss_and_gradient(*what) if keys is None else mean_loss_and_gradient(*what, keys, evaluations, self.eot)


def sparsity_of(changed: Values) -> Sparsity:
    """How many values the next steps in L1 move, from how many the best point changes."""
    # Of these whole numbers the quotient is exact; of shares of all values rounding would decide.
    return Sparsity(jnp.ceil(changed / _CHANGED_OVER_MOVED), changed)


def _known(sparsity: Sparsity | None) -> Sparsity:
    if sparsity is None:
        raise TypeError("expected a state of steps in L1, got one of another norm")
    return sparsity


@struct.dataclass(kw_only=True)
class APGDT(Targets):
    """AutoAttack's APGD-T: APGD on the targeted DLR loss, towards the likeliest other classes one after another."""

    norms: ClassVar[tuple[str, ...]] = APGD.norms
    # What goes towards each of them.
    ascent: ClassVar[type[APGD]] = APGD

    def towards(self, rank: int) -> APGD:
        """APGD towards one class."""
        return self.ascent(
            eps=self.eps,
            norm=self.norm,
            steps=self.steps,
            stay_in_range=self.stay_in_range,
            loss="targeted_dlr",
            target=rank,
        )
