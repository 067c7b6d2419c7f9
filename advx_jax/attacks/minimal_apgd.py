"""APGD as a minimum-norm attack: run after run, each in a ball whose radius is searched for.

The search is AttackBench's (Cinà et al. 2025, arXiv 2404.19460): the radius doubles until a run has success, and from
then on halves the interval between the largest one without and the smallest one with. APGD itself is that of Croce and
Hein (2020, arXiv 2003.01690, algorithm 1; APGD-T of section 4). Each example has a radius and a run of its own, so that
none waits for another, and a gradient is one step whatever it is for.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int

from advx_jax.attacks.apgd import APGD, APGDState
from advx_jax.attacks.arrays import Counts, Images, Keys, Labels, Mask, Values
from advx_jax.attacks.base import AttackResult, Model, Number
from advx_jax.attacks.eot import FrailestSoFar
from advx_jax.attacks.fixed_epsilon import BestSoFar
from advx_jax.attacks.losses import LossName, likeliest_targets
from advx_jax.attacks.minimum_norm import MinimumNorm, SmallestSoFar
from advx_jax.attacks.norms import per_example
from advx_jax.attacks.projections import Norm

_FIRST_RADIUS: dict[Norm, float] = {"L1": 10.0, "L2": 1.0, "Linf": 1 / 255}
# Twice the largest that a change can be in L∞.
_LARGEST_LINF = 2.0
# Where the interval is empty, its lower end over the upper one.
_BELOW = 0.9


class MinimalAPGDState(NamedTuple):
    """State between two steps, of each example.

    Attributes:
        made: steps of the run that were made.
        run: number of the run, for its draws.
        eps: radius of the run.
        low: the largest radius without success.
        high: the smallest with; infinite, or more than there can be, before the first.
        found: whether there was a success.
        rank: which of the targets is gone to.
        order: classes other than the label, the likeliest first; only looked at by the targeted attack.
        keys: of the draws.
        ascent: APGD's own.
        best_so_far: the smallest success.
    """

    made: Counts
    run: Counts
    eps: Values
    low: Values
    high: Values
    found: Mask
    rank: Counts
    order: Int[Array, "batch targets"]
    keys: Keys
    ascent: APGDState
    best_so_far: SmallestSoFar


@struct.dataclass(kw_only=True)
class MinimalAPGD(MinimumNorm):
    """The attack's settings.

    Attributes:
        steps: gradients in all; how many runs these are depends on the example.
        run_steps: of each run.
        loss: that untargeted runs climb, see `APGD`.
        targeted: go towards the likeliest other classes one after another at each radius, until one has success.
        n_targets: how many classes.
        init_norm: the first radius, over what AttackBench begins with: 10 in L1, 1 in L2, 1/255 in L∞.
        thrifty: end a run at its first success, and search below its size; AttackBench goes on to the last step, and
            searches below the radius.
    """

    norms = APGD.norms

    steps: int = struct.field(pytree_node=False, default=500)
    run_steps: int = struct.field(pytree_node=False, default=100)
    loss: LossName = struct.field(pytree_node=False, default="dlr")
    targeted: bool = struct.field(pytree_node=False, default=False)
    n_targets: int = struct.field(pytree_node=False, default=9)
    init_norm: Number = 1.0
    thrifty: bool = struct.field(pytree_node=False, default=True)

    @property
    def name(self) -> str:
        """As AttackBench names it."""
        return "apgd-t" if self.targeted else "apgd"

    @property
    def is_random(self) -> bool:
        """Starting points are drawn."""
        return True

    def check(self, n_classes: int | None = None) -> None:
        """Refuse what APGD refuses.

        Raises:
            UserError: in one line.
        """
        super().check(n_classes)
        self._run(jnp.ones(())).check(n_classes)

    def _run(self, eps: Array) -> APGD:
        """APGD within a radius, or within one for each example."""
        return APGD(
            eps=eps,
            norm=self.norm,
            steps=self.run_steps,
            loss="targeted_dlr" if self.targeted else self.loss,
            stay_in_range=self.stay_in_range,
            criterion=self.criterion,
        )

    def init(  # type: ignore[override]  # its own state, and draws
        self, model: Model, images: Images, labels: Labels, keys: Keys
    ) -> MinimalAPGDState:
        """State before the first run; the images' own logits tell the targets."""
        batch, logits = images.shape[0], model(images)
        none = jnp.zeros(batch, jnp.int32)
        radius = jnp.full(batch, self.init_norm, images.dtype) * _FIRST_RADIUS[self.norm]
        # Its fields are filled when a run begins.
        shapes = jax.eval_shape(lambda: self._run(radius).init_at(model, images, labels, images))
        ascent: APGDState = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return MinimalAPGDState(
            made=none,
            run=none,
            eps=radius,
            low=jnp.zeros_like(radius),
            high=jnp.full_like(radius, _LARGEST_LINF if self.norm == "Linf" else jnp.inf),
            found=jnp.zeros(batch, bool),
            rank=none,
            order=likeliest_targets(logits, labels, self.n_targets).T,
            keys=keys,
            ascent=ascent._replace(step=none),
            best_so_far=self.best_at_start(images, logits, labels),
        )

    def step(self, model: Model, images: Images, labels: Labels, state: MinimalAPGDState) -> MinimalAPGDState:
        """One gradient of each example's run, and what its end says about the radius."""
        begins, run = state.made == 0, self._run(state.eps)
        ascent = run.step(model, images, labels, _where(begins, self._before(images, state), state.ascent))
        ascent = _where(begins, _begun(run, images, ascent), ascent)

        first = ascent.best_so_far.success & (begins | ~state.ascent.best_so_far.success)
        best = self._with_success(images, state.best_so_far, ascent.best_so_far, first)
        won_already = ascent.best_so_far.success
        ends = (state.made == self.run_steps) | (won_already & self.thrifty)
        won, lost = ends & won_already, ends & ~won_already
        more = lost & (state.rank + 1 < state.order.shape[1]) & self.targeted
        failed = lost & ~more
        found = state.found | won
        high = jnp.where(won, jnp.minimum(state.eps, best.norm) if self.thrifty else state.eps, state.high)
        low = jnp.where(failed, state.eps, state.low)
        # A run may find less than an earlier one missed.
        low = jnp.where(low >= high, _BELOW * high, low)
        eps = jnp.where(found | (2 * low >= high), (low + high) / 2, 2 * low)
        return MinimalAPGDState(
            made=jnp.where(ends, 0, state.made + 1),
            run=state.run + ends,
            eps=jnp.where(won | failed, eps, state.eps),
            low=low,
            high=high,
            found=found,
            rank=jnp.where(won | failed, 0, state.rank + more),
            order=state.order,
            keys=state.keys,
            ascent=ascent,
            best_so_far=best,
        )

    def _with_success(
        self, images: Images, best: SmallestSoFar, run: BestSoFar | FrailestSoFar, new: Mask
    ) -> SmallestSoFar:
        """Count an evaluation, and remember a run's success where it is the smallest."""
        change = run.adversarial - images
        norm = self.size(change)
        smaller = new & (norm < best.norm)
        return SmallestSoFar(
            perturbation=jnp.where(per_example(smaller, change), change, best.perturbation),
            norm=jnp.where(smaller, norm, best.norm),
            first_success=jnp.where(new, jnp.minimum(best.first_success, best.evaluations), best.first_success),
            evaluations=best.evaluations + 1,
            finite=best.finite & run.finite,
        )

    def _before(self, images: Images, state: MinimalAPGDState) -> APGDState:
        """Before a run: a step of length 0 goes to its starting point."""
        start = self._run(state.eps).start(jax.vmap(jax.random.fold_in)(state.keys, state.run), images)
        nothing = jnp.zeros_like(state.eps)
        earlier = state.ascent.best_so_far
        return state.ascent._replace(
            step=jnp.full_like(state.made, -1),
            iterate=start,
            previous=start,
            targets=jnp.take_along_axis(state.order, state.rank[:, None], axis=1)[:, 0],
            gradient=jnp.zeros_like(images),
            best=start,
            best_loss=nothing - jnp.inf,
            step_size=nothing,
            best_so_far=earlier._replace(
                adversarial=images, success=jnp.zeros_like(earlier.success), finite=jnp.ones_like(earlier.finite)
            ),
        )

    def result(self, model: Model, images: Images, labels: Labels, state: MinimalAPGDState) -> AttackResult:
        """The smallest success; every point was looked at already."""
        del model, labels
        return self.found(images, state.best_so_far)


def _begun(run: APGD, images: Images, ascent: APGDState) -> APGDState:
    """After the starting point was looked at."""
    step_size, sparsity = run.first_step(images)
    return ascent._replace(
        iterate=ascent.best,
        previous=ascent.best,
        gradient=ascent.best_gradient,
        # As APGD itself begins.
        last_loss=jnp.zeros_like(ascent.last_loss),
        step_size=step_size,
        sparsity=sparsity,
        rises=jnp.zeros_like(ascent.rises),
        best_at_check=ascent.best_loss,
        halved_at_check=jnp.ones_like(ascent.halved_at_check),
    )


def _where(chosen: Mask, one: APGDState, other: APGDState) -> APGDState:
    def choose(one: Array, other: Array) -> Array:
        return jnp.where(per_example(chosen, one), one, other) if one.ndim else one

    result: APGDState = jax.tree.map(choose, one, other)
    return result
