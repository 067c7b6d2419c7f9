"""ψ = ψ₀·exp(rate·r), the weight of the Lipschitz penalty, as it goes with a network from recipe to recipe."""

import math

PUBLISHED_WEIGHT_AT_ZERO = 220.0
"""ψ₀ of the published networks."""

PUBLISHED_RATE = 0.02
"""Growth of ln ψ with r, of the published networks."""


def psi_of(
    integrator: float, weight_at_zero: float = PUBLISHED_WEIGHT_AT_ZERO, rate: float = PUBLISHED_RATE
) -> float | None:
    """ψ where the controller's integrator r stands at `integrator`; None where that is no positive number.

    Args:
        integrator: r.
        weight_at_zero: ψ₀.
        rate: growth of ln ψ with r.
    """
    try:
        psi = weight_at_zero * math.exp(rate * integrator)
    except OverflowError:
        return None
    return psi if 0 < psi < math.inf else None
