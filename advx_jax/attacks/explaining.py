"""Attacks that make adversarial explanations, by the norm that their changes are bounded in."""

from typing import Any

from advx_jax.attacks.checks import norm_named
from advx_jax.attacks.criteria import Targeted
from advx_jax.attacks.frank_wolfe import FrankWolfe
from advx_jax.attacks.published import EXPLANATION, PublishedBounded
from advx_jax.errors import UserError

ExplanationAttack = PublishedBounded | FrankWolfe
"""Attacks whose state keeps δ, whether or not the target is reached, and when δ had reached its bound."""

EXPLANATIONS: dict[str, ExplanationAttack] = {
    "L2": EXPLANATION,
    "Linf": FrankWolfe(eps=8 / 255, norm="Linf", criterion=Targeted()),
    "L1.5": FrankWolfe(eps=12.0, norm="L1.5", criterion=Targeted()),
}
"""Towards a class given as target: as published; by at most 8 of 255 grey levels; by a sparse change."""


def check_explains(attack: Any) -> None:
    """Make sure that an attack makes explanations of the class that it is given.

    Raises:
        UserError: it is another attack, or leads away from the class.
    """
    if not isinstance(attack, ExplanationAttack):
        raise UserError(
            f"expected an attack that makes explanations, such as one of attacks.EXPLANATIONS, got {attack!r}"
        )
    if not attack.criterion.towards_label:
        raise UserError(
            f"expected an attack with the criterion Targeted() for explanations, got {attack.criterion.name}"
        )


def explanation_in(norm: Any) -> ExplanationAttack:
    """The usual explanation in a norm, in any spelling of its name.

    Raises:
        UserError: there is none in it.
    """
    return EXPLANATIONS[norm_named(norm, tuple(EXPLANATIONS))]
