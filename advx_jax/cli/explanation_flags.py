"""Flags that say how images are explained, and what the explanations are compared with."""

from absl import flags

from advx_jax.analysis.attribution import METHODS, VARIANTS, AdversarialExplanation, Attribution, find_method
from advx_jax.analysis.comparison import ADVERSARIAL
from advx_jax.attacks import EXPLANATION, EXPLANATIONS, ExplanationAttack, PublishedBounded
from advx_jax.cli import attack_flags
from advx_jax.cli.flag_types import check_eps_within_box, define_length, define_norm, define_whole
from advx_jax.cli.named_flags import read_named

_NORM = define_norm(
    "norm",
    "L2",
    "What bounds the change: L2 as published, Linf, or L1.5, whose changes are sparse.",
    tuple(EXPLANATIONS),
)
_EPS = define_length(
    "eps",
    None,
    f"ρ: RMS of the change, on the [0,1] scale, {EXPLANATION.eps} by default; with --norm=Linf its largest value "
    f"(8/255), with --norm=L1.5 its L1.5 norm ({EXPLANATIONS['L1.5'].eps:g}).",
)
_STEPS = define_whole(
    "steps",
    None,
    f"Number of attack steps, {EXPLANATION.steps} by default; with other norms {EXPLANATIONS['Linf'].steps}.",
)
_METHODS = flags.DEFINE_string(
    "methods",
    None,
    f"Methods to compare with, side by side in the gallery: {', '.join([*METHODS, *VARIANTS])}, or yours, "
    "package.module:name; settings in brackets, smoothgrad(samples=16).",
)
flags.adopt_module_key_flags(attack_flags)


def attack() -> ExplanationAttack:
    """The attack that the flags ask for.

    Raises:
        UserError: they do not fit each other, or the attack cannot be so.
    """
    usual = EXPLANATIONS[_NORM.value]
    eps = float(usual.eps) if _EPS.value is None else _EPS.value
    steps = usual.steps if _STEPS.value is None else _STEPS.value
    if isinstance(usual, PublishedBounded):
        check_eps_within_box(eps, 1.0, "RMS")
        return attack_flags.paper_attack(usual, eps, steps)
    if _NORM.value == "Linf":
        check_eps_within_box(eps, 1.0, "Linf")
    return attack_flags.other_explanation(_NORM.value, usual, eps, steps)


def methods(attack: ExplanationAttack) -> dict[str, Attribution]:
    """The methods that --methods names, and none without it.

    Raises:
        UserError: see `read_named`.
    """
    if _METHODS.value is None:
        return {}

    def find(name: str) -> Attribution:
        return AdversarialExplanation(attack=attack) if name == ADVERSARIAL else find_method(name)

    return read_named(_METHODS.value, find, _METHODS.name)
