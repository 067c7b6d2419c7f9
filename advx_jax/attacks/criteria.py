"""When a minimum-norm attack has succeeded, and what it descends to get there."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from advx_jax.attacks.ascent import negative_log_odds

Logits = Float[Array, "batch classes"]
Labels = Int[Array, " batch"]

# Logits of deep networks differ by so many units in the last place from one compilation to another.
_ROUNDING = 100


class Criterion(NamedTuple):
    """A boundary that an attack looks for; hashable, so that compiled code is kept apart by it.

    Attributes:
        name: for people and results.
        success: from logits and labels, whether each example is over the boundary.
        margin: from logits and labels, how far each example has to go, in logits: positive before the
            boundary, 0 on it, negative beyond. Its gradient does not vanish where p_y rounds to 0 or 1.
        towards_label: the label is a target to go to, rather than the class to leave.
    """

    name: str
    success: Callable[[Logits, Labels], Bool[Array, " batch"]]
    margin: Callable[[Logits, Labels], Float[Array, " batch"]]
    towards_label: bool


def is_misclassified(logits: Logits, labels: Labels) -> Bool[Array, " batch"]:
    """Another class has the largest logit (ties go to the lowest class)."""
    return logits.argmax(-1) != labels


def is_no_better_than_random(logits: Logits, labels: Labels) -> Bool[Array, " batch"]:
    """The label's probability is not above 1/K."""
    own = jnp.take_along_axis(jax.nn.softmax(logits), labels[:, None], axis=-1)[:, 0]
    return ~(own > 1 / logits.shape[-1])


def is_target(logits: Logits, labels: Labels) -> Bool[Array, " batch"]:
    """The target has the largest logit (ties go to the lowest class)."""
    return logits.argmax(-1) == labels


def logit_lead(logits: Logits, labels: Labels) -> Float[Array, " batch"]:
    """z_y less the largest other logit; among equal ones the lowest class passes on the whole gradient."""
    own = jnp.arange(logits.shape[-1])[None] == labels[:, None]
    rival = jnp.where(own, -jnp.inf, logits).argmax(-1)
    chosen = jnp.take_along_axis(logits, jnp.stack([labels, rival], axis=-1), axis=-1)
    return chosen[:, 0] - chosen[:, 1]


def logit_lag(logits: Logits, labels: Labels) -> Float[Array, " batch"]:
    """The largest other logit less the target's."""
    return -logit_lead(logits, labels)


def log_odds_above_random(logits: Logits, labels: Labels) -> Float[Array, " batch"]:
    """Log odds of the label less those of 1/K: log(p_y/(1-p_y)) + log(K-1), positive where p_y > 1/K."""
    return jnp.log(logits.shape[-1] - 1) - negative_log_odds(logits, labels)


def clearly_met(criterion: Criterion, logits: Logits, labels: Labels) -> Bool[Array, " batch"]:
    """Whether each example is over the boundary by more than rounding decides.

    One that is not could be a failure when looked at again in another batch. Logits that are not finite are over no
    boundary.
    """
    rounding = _ROUNDING * jnp.finfo(logits.dtype).eps * jnp.abs(logits).max(-1)
    return is_met(criterion, logits, labels) & (criterion.margin(logits, labels) < -rounding)


def is_met(criterion: Criterion, logits: Logits, labels: Labels) -> Bool[Array, " batch"]:
    """Whether each example is over the boundary or, by definition, on it; not where logits are not finite."""
    return criterion.success(logits, labels) & jnp.isfinite(logits).all(-1)


UNTIL_MISCLASSIFIED = Criterion("misclassified", is_misclassified, logit_lead, towards_label=False)
UNTIL_RANDOM = Criterion("no better than random", is_no_better_than_random, log_odds_above_random, towards_label=False)
UNTIL_TARGET = Criterion("target", is_target, logit_lag, towards_label=True)
