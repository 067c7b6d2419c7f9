"""Attribution methods by the names that commands and results know them by, and other people's by their code's place."""

from advx_jax.analysis.attribution.adversarial import AdversarialExplanation
from advx_jax.analysis.attribution.base import Attribution
from advx_jax.analysis.attribution.expected_gradients import ExpectedGradients
from advx_jax.analysis.attribution.grad_cam import GradCAM
from advx_jax.analysis.attribution.gradient import Gradient
from advx_jax.analysis.attribution.input_x_gradient import InputXGradient
from advx_jax.analysis.attribution.integrated_gradients import IntegratedGradients
from advx_jax.analysis.attribution.magnitude import Magnitude
from advx_jax.analysis.attribution.occlusion import Occlusion
from advx_jax.analysis.attribution.random_values import RandomValues
from advx_jax.analysis.attribution.smoothgrad import SmoothGrad
from advx_jax.analysis.attribution.vargrad import VarGrad
from advx_jax.attacks.explaining import EXPLANATIONS
from advx_jax.errors import UserError
from advx_jax.importing import find_by_name, made

METHODS: dict[str, Attribution] = {
    method.name: method
    for method in (
        Gradient(),
        InputXGradient(),
        IntegratedGradients(),
        SmoothGrad(),
        VarGrad(),
        GradCAM(),
        Occlusion(),
        ExpectedGradients(),
        AdversarialExplanation(),
    )
}
"""With their usual settings; expected_gradients must be given a background (`with_settings(background=images)`)."""

VARIANTS: dict[str, Attribution] = {
    method.name: method
    for method in (
        *(AdversarialExplanation(attack=EXPLANATIONS[norm]) for norm in ("Linf", "L1.5")),
        Magnitude(of=AdversarialExplanation()),
        Magnitude(of=Gradient()),
        RandomValues(),
    )
}
"""Adversarial explanations in other norms, sizes without directions, and the control that methods are compared with."""


def find_method(name: str) -> Attribution:
    """A method by name, or one of a person's own: a method, or a class that makes one without arguments.

    Args:
        name: one of `METHODS` or `VARIANTS`, in any case and with - or _; or `package.module:name`.

    Raises:
        UserError: there is none, or it is no attribution.
    """
    known = {**METHODS, **VARIANTS}
    found = find_by_name(name if ":" in name else name.replace("-", "_"), known, "methods", "an attribution")
    method = found if isinstance(found, Attribution) else made(name, found, "an attribution")
    if not isinstance(method, Attribution):
        raise UserError(f"expected {name} to be an advx_jax.attribution.Attribution, got {type(method).__name__}")
    return method
