"""Minimum-norm attacks: cross a boundary, then shrink the perturbation while staying across."""

import dataclasses
from typing import Any

from flax import struct
from jaxtyping import Array, Bool, Float, Int

from advx_jax.attacks.criteria import UNTIL_MISCLASSIFIED, UNTIL_RANDOM, UNTIL_TARGET, Criterion
from advx_jax.attacks.loop import (
    AttackResult,
    AttackSettings,
    Kind,
    LogitsFn,
    LoopAttack,
    Sight,
    attack,
    without_memory,
)


def _until(criterion: Criterion) -> Kind:
    """Follow the gradient until the criterion holds."""

    def follow(sight: Sight) -> Bool[Array, " batch"]:
        return ~criterion.success(sight.logits, sight.labels)

    return Kind(follow, criterion.towards_label, keeps_smallest=True)


MISCLASSIFIED = _until(UNTIL_MISCLASSIFIED)
BETTER_THAN_RANDOM = _until(UNTIL_RANDOM)

# Made once: compiled code is kept apart by them.
_KINDS = {
    UNTIL_MISCLASSIFIED: MISCLASSIFIED,
    UNTIL_RANDOM: BETTER_THAN_RANDOM,
    UNTIL_TARGET: _until(UNTIL_TARGET),
}


@struct.dataclass
class Published:
    """The paper's attack among the other minimum-norm attacks.

    Attributes:
        settings: how it moves.
        criterion: of success.
    """

    settings: AttackSettings
    criterion: Criterion = struct.field(pytree_node=False, default=UNTIL_MISCLASSIFIED)

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.settings.steps

    @property
    def gradient_evaluations(self) -> int:
        """Cost for each image; success is looked for once more after the last step, without a gradient."""
        return self.settings.steps

    @property
    def parts(self) -> tuple[LoopAttack]:
        """What to run."""
        return (LoopAttack(_KINDS[self.criterion], self.settings),)

    def until(self, criterion: Criterion) -> "Published":
        """The same attack with another criterion of success."""
        return dataclasses.replace(self, criterion=criterion)

    def record(self) -> dict[str, Any]:
        """Everything that a result depends on, apart from network, image and criterion."""
        return dataclasses.asdict(self.settings)


def minimum_norm_attack(
    logits_fn: LogitsFn,
    images: Float[Array, "batch *shape"],
    labels: Int[Array, " batch"],
    settings: AttackSettings,
    attacked: Bool[Array, " batch"] | None = None,
) -> AttackResult:
    """Find a small perturbation that makes the network misclassify (the paper's L2,min attack).

    Args:
        logits_fn: images to logits.
        images: x, on the scale that `logits_fn` takes.
        labels: true classes; an image misclassified to begin with has distance 0.
        settings: eps is the length of the whole path, far larger than the distances looked for.
        attacked: examples to perturb; all if None.
    """
    return attack(without_memory(logits_fn), MISCLASSIFIED, images, labels, settings, attacked)[0]


def better_than_random_attack(
    logits_fn: LogitsFn,
    images: Float[Array, "batch *shape"],
    labels: Int[Array, " batch"],
    settings: AttackSettings,
    attacked: Bool[Array, " batch"] | None = None,
) -> AttackResult:
    """Find a small perturbation at which the label is no likelier than 1/K (the paper's BTR attack).

    Arguments as `minimum_norm_attack`.
    """
    return attack(without_memory(logits_fn), BETTER_THAN_RANDOM, images, labels, settings, attacked)[0]
