"""Attribution methods by the names that commands and results know them by, and other people's by their code's place."""

from typing import Any

from advx_jax.analysis.attribution.adversarial import AdversarialExplanation
from advx_jax.analysis.attribution.base import Attribution
from advx_jax.analysis.attribution.expected_gradients import ExpectedGradients
from advx_jax.analysis.attribution.grad_cam import GradCAM
from advx_jax.analysis.attribution.gradient import Gradient
from advx_jax.analysis.attribution.input_x_gradient import InputXGradient
from advx_jax.analysis.attribution.integrated_gradients import IntegratedGradients
from advx_jax.analysis.attribution.occlusion import Occlusion
from advx_jax.analysis.attribution.smoothgrad import SmoothGrad
from advx_jax.analysis.attribution.vargrad import VarGrad
from advx_jax.errors import UserError
from advx_jax.importing import import_by_name
from advx_jax.messages import nearest

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


def find_method(name: str) -> Attribution:
    """A method by name, or one of a person's own: a method, or a class that makes one without arguments.

    Args:
        name: one of `METHODS`, in any case and with - or _; or `package.module:name`.

    Raises:
        UserError: there is none, or it is no attribution.
    """
    known = METHODS.get(name.lower().replace("-", "_"))
    if known is not None:
        return known
    if ":" not in name:
        hint = nearest(name.lower(), METHODS, 0.6)
        raise UserError(f"expected an attribution ({', '.join(METHODS)}) or package.module:name, got {name!r}{hint}")
    found = import_by_name(name, "methods", "an attribution")
    made = found if isinstance(found, Attribution) else _made(name, found)
    if not isinstance(made, Attribution):
        raise UserError(f"expected {name} to be an advx_jax.attribution.Attribution, got {type(made).__name__}")
    return made


def _made(name: str, maker: Any) -> Any:
    if not callable(maker):
        return maker
    try:
        return maker()
    except TypeError as error:
        raise UserError(f"cannot make the attribution {name} without arguments: {error}") from error
