"""Flags that the commands which attack share, and the attacks that they make."""

import dataclasses
from typing import TypeVar

from absl import flags

from advx_jax.attacks import Attack
from advx_jax.attacks.published import PublishedLoop
from advx_jax.errors import UserError

PaperAttack = TypeVar("PaperAttack", bound=PublishedLoop)

_DIRECTION = flags.DEFINE_enum(
    "direction",
    "cross_entropy",
    ["cross_entropy", "scale_free"],
    case_sensitive=False,
    help="Gradient to follow: as published, or one that saturated networks cannot make vanish.",
)
_STAY_IN_RANGE = flags.DEFINE_boolean(
    "stay_in_range",
    None,
    "Keep perturbed images in [0,1]. If not given, as the attack is known: the paper's does not, all others do.",
)


def paper_attack(attack: PaperAttack, eps: float, steps: int, momentum: float = 0.0) -> PaperAttack:
    """An attack of the paper, changed as the flags say; these let nothing through that is out of its range."""
    return dataclasses.replace(
        attack,
        eps=eps,
        steps=steps,
        momentum=momentum,
        direction=_DIRECTION.value,
        stay_in_range=attack.stay_in_range if _STAY_IN_RANGE.value is None else _STAY_IN_RANGE.value,
    )


def other_attack(name: str, attack: Attack, steps: int | None, *not_taken: str) -> Attack:
    """A minimum-norm attack other than the paper's, changed as the flags say.

    Args:
        name: of the attack, for messages.
        attack: as it is by default.
        steps: number of steps in all; None for the default.
        not_taken: flags of the command that only the paper's attack takes.

    Raises:
        UserError: a flag that the attack does not take is given, or a value is out of its range.
    """
    for flag in (*not_taken, _DIRECTION.name):
        if flags.FLAGS[flag].present:
            raise UserError(f"expected --{flag} with --attack=published only, got it with --attack={name}")
    fewest = len(attack.parts())
    if steps is not None and steps < fewest:
        raise UserError(f"expected --steps of at least {fewest} with --attack={name}, got {steps}")
    given = {"stay_in_range": _STAY_IN_RANGE.value, "steps": steps}
    return attack.with_settings(**{name: value for name, value in given.items() if value is not None})
