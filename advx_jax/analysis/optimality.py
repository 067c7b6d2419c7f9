"""How near an attack comes to the smallest distances known, in one number.

From "AttackBench: Evaluating gradient-based attacks for adversarial examples" (Cinà, Rony, Pintor, Demetrio, Demontis,
Biggio, Ben Ayed and Roli 2025, arXiv 2404.19460). Distances are of each image, in the attack's norm: 0 for one that is
misclassified to begin with, infinite for one that was not brought over the boundary.
"""

import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

Distances = Float[np.ndarray, " n"]
"""Of each image, in one norm."""

_NEAR = 0.01


def lower_envelope(distances: Iterable[Distances]) -> Distances:
    """Of each image the smallest distance that any attack found: the empirical best attack, a* in the paper."""
    return functools.reduce(np.minimum, distances)


def area_under_curve(distances: Distances, end: float) -> float:
    """∫₀ᵉⁿᵈ ρ(ε) dε, with ρ(ε) the share of images whose distance is above ε (the paper's equation 4): exact."""
    return float(np.minimum(distances, end).mean()) if end > 0 else 0.0


def local_optimality(distances: Distances, envelope: Distances) -> float:
    """How much of the area that the best attack takes from the curve this one takes: 1 for all, 0 for none.

    (ρ(0)·ε₀ - ∫ρ) / (ρ(0)·ε₀ - ∫ρ*) over [0, ε₀], with ε₀ the distance at which nothing is left of ρ*, the curve of the
    envelope (the paper's equation 5). Where the envelope has infinite distances, ε₀ is its largest finite one.

    Args:
        distances: that the attack found.
        envelope: the smallest ones known, `lower_envelope`.

    Returns:
        From 0 to 1; NaN where the envelope leaves nothing to be found.
    """
    known = envelope[np.isfinite(envelope)]
    end = float(known.max(initial=0.0))
    largest = float((envelope > 0).mean()) * end if len(envelope) else 0.0
    best = largest - area_under_curve(envelope, end)
    if best <= 0:
        return math.nan
    return float(np.clip((largest - area_under_curve(distances, end)) / best, 0, 1))


def global_optimality(local: Sequence[float]) -> float:
    """Mean of an attack's local optimality over networks (the paper's equation 6)."""
    return float(np.mean(local)) if len(local) else math.nan


def passes_to_envelope(
    passes: Sequence[int], distances: Float[np.ndarray, "n looks"], envelope: Distances, within: float = _NEAR
) -> int | None:
    """After how many passes an attack is so near to the envelope that its local optimality lacks at most 1%.

    Args:
        passes: made before each look.
        distances: of each image, at each look.
        envelope: the smallest ones known.
        within: how much may lack.

    Returns:
        The passes; None if it never is.
    """
    for place, made in enumerate(passes):
        if local_optimality(distances[:, place], envelope) >= 1 - within:
            return made
    return None
