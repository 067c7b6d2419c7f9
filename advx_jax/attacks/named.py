"""Attacks by the names that commands and results know them by, and other people's by the place of their code."""

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from advx_jax.attacks.apgd import APGD, APGDT
from advx_jax.attacks.autoattack import AutoAttack
from advx_jax.attacks.base import Attack
from advx_jax.attacks.best import BEST
from advx_jax.attacks.ddn import DDN
from advx_jax.attacks.fab import FABT
from advx_jax.attacks.fmn import FMN
from advx_jax.attacks.pgd import PGD
from advx_jax.attacks.published import Published
from advx_jax.attacks.square import Square
from advx_jax.errors import UserError

FixedEpsilonMaker = Callable[..., Attack]
"""Takes eps, norm and stay_in_range by name."""

FIXED_EPSILON: dict[str, FixedEpsilonMaker] = {
    "autoattack": AutoAttack,
    "pgd": PGD,
    "apgd-ce": APGD,
    "apgd-dlr": functools.partial(APGD, loss="dlr"),
    "apgd-t": APGDT,
    "fab-t": FABT,
    "square": Square,
}

MINIMUM_NORM: dict[str, Attack] = {"published": Published(), "ddn": DDN(), "fmn": FMN(), "best": BEST}
"""The paper's, and others that find smaller distances with fewer gradients."""


def find_attack(name: str, known: Mapping[str, Any]) -> Any:
    """An attack, or what makes one, by name or as `package.module:name`.

    Args:
        name: one of `known` in any case; or where an attack of one's own is, in a module that can be imported.
        known: attacks by name.

    Raises:
        UserError: there is no such attack, or no such module.
    """
    if name.lower() in known:
        return known[name.lower()]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise UserError(f"expected an attack ({', '.join(known)}) or package.module:name, got {name!r}")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise UserError(f"expected {module} of --attack={name} to be a module that can be imported: {error}") from error
    except AttributeError as error:
        raise UserError(f"expected {module} to have the attack {attribute!r}, got none of that name") from error


def minimum_norm_attack(name: str) -> Attack:
    """A minimum-norm attack by name, or one of a person's own: an attack, or a class that makes one without arguments.

    Raises:
        UserError: there is none, or it is no attack.
    """
    return _as_attack(name, find_attack(name, MINIMUM_NORM))


def fixed_epsilon_attack(name: str, **ball: Any) -> Attack:
    """An attack with a fixed epsilon by name, or one of a person's own: an attack, or what makes one of the ball.

    Args:
        name: see `find_attack`.
        ball: eps, norm and stay_in_range.

    Raises:
        UserError: there is none, or it is no attack.
    """
    return _as_attack(name, find_attack(name, FIXED_EPSILON), **ball)


def _as_attack(name: str, found: Any, **ball: Any) -> Attack:
    if not isinstance(found, Attack) and callable(found):
        try:
            found = found(**ball)
        except TypeError as error:
            raise UserError(
                f"cannot make the attack {name} with {', '.join(ball) or 'no arguments'}: {error}"
            ) from error
    if not isinstance(found, Attack):
        raise UserError(f"expected {name} to be an advx_jax.attacks.Attack, got {type(found).__name__}")
    return found
