"""Flags that the commands which attack share, and the attacks that they make."""

import dataclasses
from typing import Any, NamedTuple, TypeVar

from absl import flags

from advx_jax.attacks import Attack, FrankWolfe, Published
from advx_jax.attacks.named import MINIMUM_NORM, minimum_norm_attack
from advx_jax.attacks.passes import within_budget
from advx_jax.attacks.projections import Norm
from advx_jax.attacks.published import PublishedLoop
from advx_jax.errors import UserError

Flag = Any
"""A flag, with its name and value."""

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


class Steps(NamedTuple):
    """How many steps an attack is to make, as the command line says it; None for what it does not say.

    Attributes:
        steps: so many.
        budget: as many as so many gradients for each image allow.
    """

    steps: int | None
    budget: int | None


def minimum_norm(name: str, norm: Norm | None, steps: Steps, eps: Flag, momentum: Flag) -> Attack:
    """The attack of `ara`.

    Args:
        name: as on the command line.
        norm: to minimise; as the attack does if None.
        steps: how many.
        eps: flag of the paper's attack alone.
        momentum: as well.

    Raises:
        UserError: there is no such attack, it does not know the norm, or flags do not fit it.
    """
    if steps.steps is not None and steps.budget is not None:
        raise UserError("expected either --steps or --budget, got both")
    name = name.lower() if name.lower() in MINIMUM_NORM else name
    attack = minimum_norm_attack(name, norm)
    if name != "published" or not isinstance(attack, Published):
        return other_attack(name, attack, steps.steps, eps.name, momentum.name)
    return paper_attack(attack, eps.value, steps.steps or attack.steps, momentum.value)


def within(steps: Steps, attack: Attack, n_classes: int, image_shape: tuple[int, ...]) -> Attack:
    """The attack with as many steps as the budget of gradients allows, where there is one.

    Raises:
        UserError: it allows none.
    """
    if steps.budget is None:
        return attack
    return within_budget(attack, steps.budget, n_classes, image_shape, lambda passes: passes.backward)


def other_explanation(norm: str, attack: FrankWolfe, eps: float, steps: int) -> FrankWolfe:
    """An explanation in another norm than the paper's, changed as the flags say.

    Raises:
        UserError: a flag that only the paper's takes is given.
    """
    if flags.FLAGS[_DIRECTION.name].present:
        raise UserError(f"expected --{_DIRECTION.name} with --norm=L2 only, got it with --norm={norm}")
    given = {} if _STAY_IN_RANGE.value is None else {"stay_in_range": _STAY_IN_RANGE.value}
    return attack.with_settings(eps=eps, steps=steps, **given)


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
