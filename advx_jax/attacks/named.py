"""Attacks by the names that commands and results know them by, and other people's by the place of their code."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from advx_jax.attacks.alma import ALMA
from advx_jax.attacks.apgd import APGD, APGDT
from advx_jax.attacks.autoattack import AutoAttack, Version
from advx_jax.attacks.base import Attack, as_attack
from advx_jax.attacks.best import BEST, BEST_OF
from advx_jax.attacks.carlini_wagner import CarliniWagner
from advx_jax.attacks.checks import norm_named, norms_of
from advx_jax.attacks.criteria import Misclassified
from advx_jax.attacks.ddn import DDN
from advx_jax.attacks.deepfool import DeepFool, SuperDeepFool
from advx_jax.attacks.ensemble import FirstSuccess, Restarted
from advx_jax.attacks.fab import FABT
from advx_jax.attacks.fmn import FMN
from advx_jax.attacks.minimal_apgd import MinimalAPGD
from advx_jax.attacks.pgd import PGD
from advx_jax.attacks.primal_dual import PDGD, PDPGD
from advx_jax.attacks.projections import NormLike
from advx_jax.attacks.published import Published
from advx_jax.attacks.sigma_zero import SigmaZero
from advx_jax.attacks.square import Square
from advx_jax.attacks.steep_fmn import SteepFMN
from advx_jax.attacks.swaps import SigmaZeroSwaps
from advx_jax.errors import UserError
from advx_jax.importing import find_by_name, made

FixedEpsilonMaker = Callable[..., Attack]
"""Takes eps, norm and stay_in_range by name."""

VERSIONS: tuple[Version, ...] = get_args(Version)
"""Of AutoAttack."""

FIXED_EPSILON: dict[str, FixedEpsilonMaker] = {
    "autoattack": AutoAttack,
    "pgd": PGD,
    "apgd-ce": APGD,
    "apgd-dlr": functools.partial(APGD, loss="dlr"),
    "apgd-t": APGDT,
    "fab-t": FABT,
    "square": Square,
    **{f"autoattack-{version}": functools.partial(AutoAttack, version=version) for version in VERSIONS[1:]},
}

MINIMUM_NORM: dict[str, Attack] = {
    "published": Published(),
    "ddn": DDN(),
    "fmn": FMN(),
    "best": BEST,
    "fmn-steep": SteepFMN(),
    "alma": ALMA(),
    "pdgd": PDGD(),
    "pdpgd": PDPGD(),
    "sigma-zero": SigmaZero(),
    "sigma-zero-swaps": SigmaZeroSwaps(),
    "apgd": MinimalAPGD(),
    "apgd-t": MinimalAPGD(targeted=True),
    "deepfool": DeepFool(),
    "superdeepfool": SuperDeepFool(),
    "cw": CarliniWagner(),
}
"""The paper's, and others that find smaller distances with fewer gradients; of L2, but for what knows L0 alone."""


def find_attack(name: str, known: Mapping[str, Any]) -> Any:
    """An attack, or what makes one, by name or as `package.module:name`.

    Args:
        name: one of `known` in any case; or where an attack of one's own is, in a module that can be imported.
        known: attacks by name.

    Raises:
        UserError: there is no such attack, or no such module.
    """
    return find_by_name(name, known, "attack", "an attack")


def minimum_norm_attack(name: str, norm: NormLike | None = None) -> Attack:
    """A minimum-norm attack by name, or one of a person's own: an attack, or a class that makes one without arguments.

    Args:
        name: see `find_attack`.
        norm: to minimise; the one that the attack has if None.

    Raises:
        UserError: there is none, it is no attack, or it does not know the norm.
    """
    found = find_attack(name, MINIMUM_NORM)
    attack = _checked(name, found if isinstance(found, Attack) else made(name, found, "an attack"))
    return attack if norm is None else _with_norm(attack, norm)


def autoattack_named(name: str, version: str) -> str:
    """The name that results know an attack by: in small letters if it is one of ours, and with AutoAttack's version.

    Args:
        name: of an attack.
        version: one of `VERSIONS`; the first all attacks have.

    Raises:
        UserError: it is another one of another attack.
    """
    if version == VERSIONS[0]:
        return name.lower() if name.lower() in FIXED_EPSILON else name
    if name.lower() != "autoattack":
        raise UserError(f"expected --version={version} with --attack=autoattack only, got it with {name}")
    return f"autoattack-{version}"


def folder_suffix(name: str, members: Sequence[Attack]) -> str:
    """What tells results of attacks from AutoAttack's: nothing for itself, its version, or the first attack's name."""
    suffixes = {"autoattack": ""} | {f"autoattack-{version}": f"-{version}" for version in VERSIONS[1:]}
    return suffixes.get(name.lower(), f"-{members[0].name}")


def fixed_epsilon_attack(name: str, **given: Any) -> Attack:
    """An attack with a fixed epsilon by name, or one of a person's own: an attack, or what makes one.

    Args:
        name: see `find_attack`.
        given: of eps, norm and stay_in_range those that are asked for. The others are as a person's own attack has
            them; where it has none, the norm is L2 and images stay in [0,1].

    Raises:
        UserError: there is none, it is no attack, it has no setting that is asked for, or there is no eps.
    """
    found = find_attack(name, FIXED_EPSILON)
    if isinstance(found, Attack):
        return found.with_settings(**given)
    settings = {**_defaults(found), **given}
    if "eps" not in settings and _needs(found, "eps"):
        raise UserError("expected --eps, for instance --norm=L2 --eps=0.5 or --norm=Linf --eps=8/255, got none")
    return _checked(name, made(name, found, "an attack", **settings))


def fixed_epsilon_members(
    name: str, steps: int | None = None, restarts: int | None = None, **given: Any
) -> tuple[Attack, ...]:
    """The attacks that are run and reported one after the other: those of AutoAttack or of a `FirstSuccess`, or one.

    Args:
        name: see `find_attack`.
        steps: of each run of each attack; as they have it if None.
        restarts: runs of each attack that draws at random; as they have it if None.
        given: see `fixed_epsilon_attack`.

    Raises:
        UserError: see `fixed_epsilon_attack`; it counts something else as success than a misclassification; two have
            one name; there is nothing random to be restarted.
    """
    attack = fixed_epsilon_attack(name, **given)
    if attack.criterion != Misclassified():
        raise UserError(f"expected an attack until misclassified, got {name}, whose criterion is {attack.criterion}")
    members = attack.members(None) if isinstance(attack, AutoAttack | FirstSuccess) else (attack,)
    names = [member.name for member in members]
    if len(set(names)) < len(names):
        raise UserError(f"expected attacks of different names in {name}, got {', '.join(names)}")
    if steps is not None:
        members = tuple(member.with_settings(steps=steps) for member in members)
    if restarts is None:
        return members
    if restarts > 1 and not any(member.is_random for member in members):
        raise UserError(f"expected --restarts=1 for {name}, which draws nothing at random, got {restarts}")
    return tuple(_restarted(member, restarts) for member in members)


def _with_norm(attack: Attack, norm: NormLike) -> Attack:
    """The same attack for that norm; of `best` what is best there."""
    norms = minimised(attack)
    chosen = norm_named(norm, norms, attack.name)
    if attack is BEST:
        return BEST_OF[chosen]
    return attack if norms == (chosen,) else attack.with_settings(norm=chosen)


def minimised(attack: Attack) -> tuple[str, ...]:
    """The norms that a minimum-norm attack can be told to minimise; those of all its parts, if it is an ensemble.

    One that has no such setting, as those of the paper, minimises L2.
    """
    parts = [part.attack for part in attack.parts()]
    known = [norms_of(part) if hasattr(part, "norm") else ("L2",) for part in parts]
    return tuple(norm for norm in known[0] if all(norm in others for others in known))


def _restarted(attack: Attack, restarts: int) -> Attack:
    if isinstance(attack, Restarted):
        return attack.with_settings(restarts=restarts)
    return attack if restarts == 1 else Restarted(attack=attack, restarts=restarts)


def _defaults(maker: Any) -> dict[str, Any]:
    return {name: value for name, value in {"norm": "L2", "stay_in_range": True}.items() if _needs(maker, name)}


def _needs(maker: Any, name: str) -> bool:
    """Whether something has to be called with an argument of that name."""
    try:
        argument = inspect.signature(maker).parameters.get(name)
    except (TypeError, ValueError):
        return False
    return argument is not None and argument.default is inspect.Parameter.empty


def _checked(name: str, found: Any) -> Attack:
    if not isinstance(found, Attack):
        raise UserError(f"expected {name} to be an advx_jax.attacks.Attack, got {type(found).__name__}")
    return as_attack(found)
