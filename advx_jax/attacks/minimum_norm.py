"""Minimum-norm attacks: cross a boundary, then shrink the perturbation while staying across."""

import jax
from jaxtyping import Array, Bool, Float, Int

from advx_jax.attacks.loop import AttackResult, AttackSettings, Kind, LogitsFn, Sight, attack, without_memory


def still_correct(sight: Sight) -> Bool[Array, " batch"]:
    """Follow while the label has the largest logit (ties go to the lowest class)."""
    return sight.logits.argmax(-1) == sight.labels


def better_than_random(sight: Sight) -> Bool[Array, " batch"]:
    """Follow while the label's probability is above 1/K."""
    probabilities = jax.nn.softmax(sight.logits)
    own = jax.numpy.take_along_axis(probabilities, sight.labels[:, None], axis=-1)[:, 0]
    return own > 1 / sight.logits.shape[-1]


MISCLASSIFIED = Kind(still_correct, towards_label=False, keeps_smallest=True)
BETTER_THAN_RANDOM = Kind(better_than_random, towards_label=False, keeps_smallest=True)


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
