"""AutoAttack, standard version: APGD-CE, APGD-T, FAB-T and Square, one after another.

From "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks"
(Croce and Hein 2020, arXiv 2003.01690).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from advx_jax.attacks.apgd import APGD_CE, APGD_DLR, APGD_T
from advx_jax.attacks.budget import Budget, Found, Method, check, join, look, nothing_found, run_all
from advx_jax.attacks.fab import FAB_T
from advx_jax.attacks.loop import LogitsFn, Number
from advx_jax.attacks.losses import likeliest_targets
from advx_jax.attacks.pgd import PGD
from advx_jax.attacks.projections import Norm
from advx_jax.attacks.square import SQUARE


class Stage(NamedTuple):
    """An attack as AutoAttack runs it.

    Attributes:
        name: as the field names it.
        method: the attack.
        steps: of each run.
        n_targets: how many classes to go to, one a run; 0 for an untargeted attack.
        cost: of a step, in passes through the network; a gradient counts as two more.
        random: runs differ in what they draw, so that more of them may find more.
        restarts: how often to run, towards each target.
    """

    name: str
    method: Method
    steps: int
    n_targets: int = 0
    cost: int = 3
    random: bool = True
    restarts: int = 1

    def restarted(self, restarts: int) -> "Stage":
        """The same attack, run so many times; an attack that draws nothing stays at one."""
        return self._replace(restarts=restarts) if self.random else self


STAGES = {
    stage.name: stage
    for stage in (
        Stage("pgd", PGD, 40),
        Stage("apgd-ce", APGD_CE, 100),
        Stage("apgd-dlr", APGD_DLR, 100),
        Stage("apgd-t", APGD_T, 100, n_targets=9),
        Stage("fab-t", FAB_T, 100, n_targets=9, cost=4, random=False),
        Stage("square", SQUARE, 5000, cost=1),
    )
}
"""Attacks by name, with AutoAttack's settings where it has the attack."""

STANDARD = tuple(STAGES[name] for name in ("apgd-ce", "apgd-t", "fab-t", "square"))
"""The standard version's attacks, in its order."""


def autoattack(
    logits_fn: LogitsFn,
    images: Float[Array, "batch *shape"],
    labels: Int[Array, " batch"],
    eps: Number,
    norm: Norm,
    key: Key[Array, ""],
    stages: tuple[Stage, ...] = STANDARD,
    stay_in_range: bool = True,
    indices: Int[Array, " batch"] | None = None,
) -> Found:
    """All attacks on all images, as one pure function.

    Broken images are attacked on, in vain: a compiled function has no use for fewer of them. To attack
    only those still standing, and with progress, see `advx_jax.analysis.fixed_budget`.

    Args:
        logits_fn: images to logits, for instance a `Classifier`.
        images: x, on the [0,1] scale.
        labels: true classes; an image misclassified to begin with is broken without any change.
        eps: radius of the ball in the norm.
        norm: "L2" or "Linf".
        key: of all draws.
        stages: the attacks, with their steps.
        stay_in_range: keep perturbed images in [0,1].
        indices: of the images in their data set; see `run_all`.

    Raises:
        UserError: shapes do not fit, or there are too few classes for a loss.
    """
    check(images, labels, Budget(eps, norm, 1, stay_in_range))
    logits = logits_fn(images)
    found = look(nothing_found(images), images, logits, labels)
    for number, stage in enumerate(stages):
        budget = Budget(eps, norm, stage.steps, stay_in_range)
        aims = stage_targets(stage, logits, labels)
        stage_key = jax.random.fold_in(key, number)
        found = join(found, run_all(stage.method, logits_fn, images, labels, aims, budget, stage_key, indices))
    return found


def stage_targets(
    stage: Stage, logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> Int[Array, "runs batch"]:
    """A row of targets for each run of an attack: the likeliest other classes, or labels standing in for none.

    All targets have their turn before the first comes again.
    """
    rows = likeliest_targets(logits, labels, stage.n_targets) if stage.n_targets else labels[None]
    return jnp.tile(rows, (stage.restarts, 1))
