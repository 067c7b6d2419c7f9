"""What attacks with a fixed epsilon may do to an image, as their own fields say it."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from advx_jax.attacks.base import Attack, plain_number
from advx_jax.attacks.projections import Norm
from advx_jax.errors import UserError


class ThreatModel(NamedTuple):
    """What may be done to an image.

    Attributes:
        eps: the radius of the ball around it, in the norm.
        norm: "L1", "L2" or "Linf".
        stay_in_range: the changed image has to stay in [0,1].
    """

    eps: float
    norm: Norm
    stay_in_range: bool

    def largest_rms(self, n_values: int) -> float:
        """A bound of the RMS of what may be done; in L2 it is reached, in L∞ too.

        Args:
            n_values: of an image.
        """
        if self.norm == "Linf":
            return self.eps
        # No value of an image in [0,1] changes by more than 1, so that Σδ² is at most Σ|δ|.
        furthest = min(self.eps, math.sqrt(self.eps)) if self.norm == "L1" and self.stay_in_range else self.eps
        return furthest / math.sqrt(n_values)


def spans_box(norm: Norm, n_values: int) -> float:
    """The radius from which on a ball around any image spans all of [0,1]."""
    return {"L0": float(n_values), "L1": float(n_values), "L2": math.sqrt(n_values), "Linf": 1.0}[norm]


def threat_model(attacks: Iterable[Attack]) -> ThreatModel:
    """The threat model of attacks, or of all parts of an ensemble.

    Raises:
        UserError: one of them has none, an infinite one, or another one than the rest.
    """
    parts = [part.attack for attack in attacks for part in attack.parts()]
    for attack in parts:
        missing = [name for name in ThreatModel._fields if not hasattr(attack, name)]
        if missing:
            raise UserError(f"expected an attack with a fixed epsilon, got {attack.name}, which has no {missing[0]}")
    eps = float(_shared(parts, "eps"))
    if math.isinf(eps):
        raise UserError(f"expected an attack with a fixed epsilon, got {parts[0].name} with an infinite one")
    return ThreatModel(eps, _shared(parts, "norm"), bool(_shared(parts, "stay_in_range")))


def _shared(attacks: list[Attack], name: str) -> Any:
    values = dict.fromkeys(plain_number(getattr(attack, name)) for attack in attacks)
    if len(values) > 1:
        raise UserError(f"expected one {name} for all attacks, got {', '.join(map(str, values))}")
    return next(iter(values))
