"""AutoAttack: APGD-CE, APGD-T, FAB-T and Square one after another, or other attacks in other versions.

From "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks"
(Croce and Hein 2020, arXiv 2003.01690); in L1 with the APGD of "Mind the box" (Croce and Hein 2021, arXiv 2103.01208).
"""

from typing import Any, Literal

from flax import struct

from advx_jax.attacks.apgd import APGD, APGDT
from advx_jax.attacks.apgd_phases import PhasedAPGD, PhasedAPGDT
from advx_jax.attacks.base import Attack
from advx_jax.attacks.ensemble import Restarted
from advx_jax.attacks.fab import FAB, FABT
from advx_jax.attacks.fixed_epsilon import FixedEpsilonEnsemble
from advx_jax.attacks.square import Square

# The authors' code, of those attacks in "plus" that draw, and of APGD on the cross-entropy in L1.
_RESTARTS = 5
# Of theirs, for each gradient in "rand".
_DRAWS = 20


Version = Literal["standard", "plus", "rand"]


@struct.dataclass(kw_only=True)
class AutoAttack(FixedEpsilonEnsemble):
    """AutoAttack, each attack with its usual number of steps.

    Called as a function it attacks broken images on, in vain: a compiled function has no use for fewer of them.
    `robust_accuracy` attacks only those that are still robust.

    Attributes:
        norm: "L1", "L2" or "Linf".
        version: "standard", or "plus": APGD on both losses from five points, untargeted FAB, Square, APGD-T, FAB-T. FAB
            draws no points here, so that it has no restarts. Or "rand", for random networks: APGD on both losses, each
            gradient a mean over 20 draws; see `APGD` for what counts as broken. A network that draws nothing it attacks
            too, but less than "standard" does.
    """

    norms = APGD.norms

    version: Version = struct.field(pytree_node=False, default="standard")

    def members(self, n_classes: int | None) -> tuple[Attack, ...]:
        """The attacks, in their order."""
        del n_classes
        ball: dict[str, Any] = {"eps": self.eps, "norm": self.norm, "stay_in_range": self.stay_in_range}
        if self.version == "standard" and self.norm == "L1":
            ascent = Restarted(attack=PhasedAPGD(**ball), restarts=_RESTARTS)
            return (ascent, PhasedAPGDT(**ball), FABT(**ball), Square(**ball))
        if self.version == "standard":
            return (APGD(**ball), APGDT(**ball), FABT(**ball), Square(**ball))
        if self.version == "rand":
            return (APGD(**ball, eot=_DRAWS), APGD(**ball, loss="dlr", eot=_DRAWS))
        ascents = APGD(**ball), APGD(**ball, loss="dlr")
        several = (Restarted(attack=ascent, restarts=_RESTARTS) for ascent in ascents)
        return (*several, FAB(**ball), Square(**ball), APGDT(**ball), FABT(**ball))
