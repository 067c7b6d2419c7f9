"""What values the settings of metrics may have, by name: the one place where they are checked."""

import dataclasses
import math
from typing import Any, get_args

from advx_jax.analysis.faithfulness.baselines import Baseline
from advx_jax.analysis.faithfulness.outputs import Output
from advx_jax.analysis.faithfulness.rank_correlation import Similarity
from advx_jax.analysis.faithfulness.units import Unit
from advx_jax.errors import UserError

_COUNTS = ("steps", "patch", "n_subsets", "n_samples", "side")
_CHOICES = {
    "baseline": get_args(Baseline),
    "unit": get_args(Unit),
    "output": get_args(Output),
    "similarity": get_args(Similarity),
    "perturbation": ("gaussian", "square"),
}
_FRACTIONS = ("subset",)
_POSITIVE = ("sigma", "radius")


def check_settings(settings: Any) -> None:
    """Refuse settings that no metric can work with.

    Args:
        settings: a dataclass of settings, whose fields are known by their names.

    Raises:
        UserError: a value is out of its range; its name is in the message.
    """
    for field in dataclasses.fields(settings):
        name, value = field.name, getattr(settings, field.name)
        if name in _COUNTS and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise UserError(f"expected a whole number of at least 1 as {name}, got {value!r}")
        if name in _CHOICES and value not in _CHOICES[name]:
            raise UserError(f"expected {' or '.join(_CHOICES[name])} as {name}, got {value!r}")
        if name == "seed" and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise UserError(f"expected a whole number of at least 0 as seed, got {value!r}")
        if name == "modules" and not (value is None or (isinstance(value, tuple) and all(map(_is_text, value)))):
            raise UserError(f"expected a tuple of names as modules, got {value!r}")
        if name in _FRACTIONS:
            check_fraction(name, value)
        if name == "fractions":
            if not isinstance(value, tuple) or not value:
                raise UserError(f"expected a tuple of numbers between 0 and 1 as fractions, got {value!r}")
            for fraction in value:
                check_fraction(name, fraction)
        if name in _POSITIVE and (not _is_number(value) or not 0 < value < math.inf):
            raise UserError(f"expected a number above 0 as {name}, got {value!r}")
        if name == "noise" and (not _is_number(value) or not 0 <= value < math.inf):
            raise UserError(f"expected a number of at least 0 as noise, got {value!r}")


def check_fraction(name: str, value: Any) -> None:
    """Refuse what does not lie between 0 and 1.

    Raises:
        UserError: in one line.
    """
    if not _is_number(value) or not 0 < value < 1:
        raise UserError(f"expected a number above 0 and below 1 in {name}, got {value!r}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
