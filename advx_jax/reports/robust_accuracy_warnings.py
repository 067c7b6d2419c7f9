"""What should keep a person from believing a robust accuracy, in one line each (AutoAttack's checks)."""

from collections.abc import Mapping, Sequence
from typing import Any

from advx_jax.analysis.soundness import NO_LOGITS
from advx_jax.attacks import Attack, Restarted

# Of all images; AutoAttack's own figure.
_SQUARE_BREAKS_TOO_MANY = 0.002


def is_robust(record: Mapping[str, Any]) -> bool:
    """Whether an image is classified correctly and no attack broke it so far."""
    return record["correct"] and "broken_by" not in record


def warnings(
    records: Sequence[Mapping[str, Any]], attacks: Sequence[Attack], n_classes: int, random_network: bool = False
) -> list[str]:
    """Warnings that apply, each with what it means.

    Args:
        records: of the images.
        attacks: the attacks, in their order.
        n_classes: of the network.
        random_network: it is known to be random, and measured as such.
    """
    n = len(records)
    lines = []
    not_finite = sum(not record["finite"] for record in records)
    if not_finite:
        lines.append(f"{not_finite} of {n} images have infinite or NaN logits: they count as misclassified")
    lost = sum("not_finite_under" in record and is_robust(record) for record in records)
    if lost:
        lines.append(
            f"{lost} of {n} images met infinite or NaN logits under attack and still stand: an attack loses its way "
            "there, and the accuracy left may be too high"
        )
    random = sum(record["random"] for record in records)
    if random_network:
        lines.append(
            "the network is random, and each figure is of one draw for each image: what is right unperturbed, and what "
            "another draw misclassifies where an attack led to; other seeds give other figures"
        )
    elif random:
        lines.append(
            f"two passes over the same image gave different logits for {random} of {n} images: against a random "
            "network, gradients and single looks say little, and the accuracy left is no bound"
        )
    if all(record["normalised"] for record in records):
        lines.append(NO_LOGITS)
    flat = sum(record["flat"] and record["correct"] for record in records)
    if flat:
        lines.append(
            f"the gradient of cross-entropy or DLR is exactly 0 for {flat} of {n} images: gradient attacks cannot "
            "move there, and the accuracy left may be too high"
        )
    targets = max((getattr(attack, "n_targets", 0) for attack in _unrepeated(attacks)), default=0)
    if targets > n_classes - 1:
        lines.append(
            f"targeted attacks want {targets} other classes and there are {n_classes - 1}: they run once for each"
        )
    square = sum(record.get("broken_by") == "square" for record in records)
    if len(attacks) > 1 and square > _SQUARE_BREAKS_TOO_MANY * n:
        lines.append(
            f"Square, which uses no gradients, broke {square} of {n} images that gradient attacks left: gradients "
            "may be masked; try more steps, or an attack made for this network"
        )
    return lines


def _unrepeated(attacks: Sequence[Attack]) -> list[Attack]:
    return [attack.attack if isinstance(attack, Restarted) else attack for attack in attacks]
