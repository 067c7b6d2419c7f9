"""Bounded attacks: follow the gradient inside a ball, fall back outside it."""

from jaxtyping import Array, Bool, Float, Int

from advx_jax.attacks.loop import AttackResult, AttackSettings, Kind, LogitsFn, Sight, attack, without_memory


def inside_ball(sight: Sight) -> Bool[Array, " batch"]:
    """Follow while mean(δ²) < eps²."""
    return sight.mean_square < sight.eps**2


BOUNDED = Kind(inside_ball, towards_label=False, keeps_smallest=False)
TARGETED = Kind(inside_ball, towards_label=True, keeps_smallest=False)


def bounded_attack(
    logits_fn: LogitsFn,
    images: Float[Array, "batch *shape"],
    labels: Int[Array, " batch"],
    settings: AttackSettings,
    attacked: Bool[Array, " batch"] | None = None,
) -> AttackResult:
    """Make the labels unlikely with a perturbation of about RMS eps (the paper's L2 attack).

    The last perturbation is the result, neither projected nor the best: its RMS is near eps where
    eps was reached (`succeeded`), and smaller where the path was too crooked to get there.

    Args:
        logits_fn: images to logits, for instance a `Classifier`.
        images: x, on the scale that `logits_fn` takes.
        labels: true classes.
        settings: eps is the RMS of the ball.
        attacked: examples to perturb; all if None.
    """
    return attack(without_memory(logits_fn), BOUNDED, images, labels, settings, attacked)[0]


def targeted_attack(
    logits_fn: LogitsFn,
    images: Float[Array, "batch *shape"],
    targets: Int[Array, " batch"],
    settings: AttackSettings,
) -> AttackResult:
    """Make the target classes likely with a perturbation of about RMS eps (docs/method.md, Explanations).

    Args:
        logits_fn: images to logits.
        images: x, on the scale that `logits_fn` takes.
        targets: the class to go to, for each image.
        settings: eps is the paper's ρ.
    """
    return attack(without_memory(logits_fn), TARGETED, images, targets, settings)[0]
