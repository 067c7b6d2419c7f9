"""When a minimum-norm attack has succeeded, and what it descends to get there."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from advx_jax.attacks.arrays import Labels, Logits, Mask, Values
from advx_jax.attacks.ascent import at_least_float32, negative_log_odds

# Logits of deep networks differ by so many units in the last place from one compilation to another.
_ROUNDING = 100


class Criterion:
    """A boundary that an attack looks for; without fields and hashable, so that compiled code is kept apart by it."""

    name: ClassVar[str]
    """For people and results."""
    towards_label: ClassVar[bool] = False
    """The label is a target to go to, rather than the class to leave."""

    def success(self, logits: Logits, labels: Labels) -> Mask:
        """Whether each example is over the boundary."""
        raise NotImplementedError

    def margin(self, logits: Logits, labels: Labels) -> Values:
        """How far each example has to go, in logits: positive before the boundary, 0 on it, negative beyond.

        Its gradient does not vanish where p_y rounds to 0 or 1.
        """
        raise NotImplementedError

    def compared(self, logits: Logits, labels: Labels) -> Values:
        """How large the numbers are whose difference the margin is.

        It is rounded in proportion to them, whatever the logits of other classes are.
        """
        raise NotImplementedError


def is_misclassified(logits: Logits, labels: Labels) -> Mask:
    """Another class has the largest logit (ties go to the lowest class)."""
    return logits.argmax(-1) != labels


def is_no_better_than_random(logits: Logits, labels: Labels) -> Mask:
    """The label's probability is not above 1/K."""
    own = jnp.take_along_axis(jax.nn.softmax(at_least_float32(logits)), labels[:, None], axis=-1)[:, 0]
    return ~(own > 1 / logits.shape[-1])


def is_target(logits: Logits, labels: Labels) -> Mask:
    """The target has the largest logit (ties go to the lowest class)."""
    return logits.argmax(-1) == labels


def logit_lead(logits: Logits, labels: Labels) -> Values:
    """z_y less the largest other logit; among equal ones the lowest class passes on the whole gradient."""
    own, rival = _own_and_rival(logits, labels)
    return own - rival


def logit_lag(logits: Logits, labels: Labels) -> Values:
    """The largest other logit less the target's."""
    return -logit_lead(logits, labels)


def log_odds_above_random(logits: Logits, labels: Labels) -> Values:
    """Log odds of the label less those of 1/K: log(p_y/(1-p_y)) + log(K-1), positive where p_y > 1/K."""
    return jnp.log(logits.shape[-1] - 1) - negative_log_odds(logits, labels)


def larger_of_two(logits: Logits, labels: Labels) -> Values:
    """Absolute value of the label's logit or of the largest other one, whichever is larger."""
    own, rival = _own_and_rival(logits, labels)
    return jnp.maximum(jnp.abs(own), jnp.abs(rival))


def larger_of_odds(logits: Logits, labels: Labels) -> Values:
    """Absolute value of the label's logit or of all others' together, whichever is larger; at least 1.

    Success is a comparison of probabilities, whose own rounding is one of the log odds by so much.
    """
    own, _ = _own_and_rival(logits, labels)
    others = negative_log_odds(logits, labels) + own
    return jnp.maximum(jnp.maximum(jnp.abs(own), jnp.abs(others)), 1)


def clearly_met(criterion: Criterion, logits: Logits, labels: Labels) -> Mask:
    """Whether each example is over the boundary by more than rounding decides.

    One that is not could be a failure when looked at again in another batch. Only the numbers that decide count: a
    class that is dead or masked, by a logit of -1e9 or -inf, decides nothing. Logits of half precision are compared in
    float32: where they differ they do so by a step of their own grid, hundreds of times its rounding, and the network
    has decided; where the grid makes them equal it has not.
    """
    logits = at_least_float32(logits)
    rounding = _ROUNDING * jnp.finfo(logits.dtype).eps * criterion.compared(logits, labels)
    return is_met(criterion, logits, labels) & (criterion.margin(logits, labels) < -rounding)


def grid_step(criterion: Criterion, logits: Logits, labels: Labels) -> Values:
    """How far apart logits of half precision are, where the criterion compares them; 0 for any other precision.

    Within such a step a margin is 0 wherever the image is, and says nothing of how far it is to the boundary.
    """
    compared = criterion.compared(at_least_float32(logits), labels)
    narrow = jnp.finfo(logits.dtype).bits < jnp.finfo(jnp.float32).bits
    return float(jnp.finfo(logits.dtype).eps) * compared if narrow else jnp.zeros_like(compared)


def is_met(criterion: Criterion, logits: Logits, labels: Labels) -> Mask:
    """Whether each example is over the boundary or, by definition, on it; not where logits are no numbers."""
    return criterion.success(logits, labels) & are_numbers(logits, labels)


def are_numbers(logits: Logits, labels: Labels) -> Mask:
    """Whether each example's logits can be compared: none is NaN or +inf, and -inf only masks other classes."""
    own = jnp.arange(logits.shape[-1])[None] == labels[:, None]
    return (jnp.isfinite(logits) | (~own & (logits == -jnp.inf))).all(-1)


def _own_and_rival(logits: Logits, labels: Labels) -> tuple[Values, Values]:
    """The label's logit and the largest other one."""
    logits = at_least_float32(logits)
    n_classes = logits.shape[-1]
    own = jnp.arange(n_classes)[None] == labels[:, None]
    rival = jnp.where(own, -jnp.inf, logits).argmax(-1)
    # Among nothing but -inf the first is the largest, which may be the label.
    rival = jnp.where(rival == labels, (labels + 1) % n_classes, rival)
    chosen = jnp.take_along_axis(logits, jnp.stack([labels, rival], axis=-1), axis=-1)
    return chosen[:, 0], chosen[:, 1]


@dataclasses.dataclass(frozen=True)
class Misclassified(Criterion):
    """Another class than the label has the largest logit (ties go to the lowest class)."""

    name = "misclassified"

    def success(self, logits: Logits, labels: Labels) -> Mask:
        """The label is not the largest."""
        return is_misclassified(logits, labels)

    def margin(self, logits: Logits, labels: Labels) -> Values:
        """z_y less the largest other logit."""
        return logit_lead(logits, labels)

    def compared(self, logits: Logits, labels: Labels) -> Values:
        """The label's logit and the largest other one."""
        return larger_of_two(logits, labels)


@dataclasses.dataclass(frozen=True)
class NoBetterThanRandom(Criterion):
    """The label's probability is not above 1/K: the paper's "better than random" (BTR) boundary."""

    name = "no better than random"

    def success(self, logits: Logits, labels: Labels) -> Mask:
        """p_y is at most 1/K."""
        return is_no_better_than_random(logits, labels)

    def margin(self, logits: Logits, labels: Labels) -> Values:
        """Log odds of the label less those of 1/K."""
        return log_odds_above_random(logits, labels)

    def compared(self, logits: Logits, labels: Labels) -> Values:
        """The label's logit and all others' together."""
        return larger_of_odds(logits, labels)


@dataclasses.dataclass(frozen=True)
class Targeted(Criterion):
    """The label, which is a target here, has the largest logit (ties go to the lowest class)."""

    name = "target"
    towards_label = True

    def success(self, logits: Logits, labels: Labels) -> Mask:
        """The target is the largest."""
        return is_target(logits, labels)

    def margin(self, logits: Logits, labels: Labels) -> Values:
        """The largest other logit less the target's."""
        return logit_lag(logits, labels)

    def compared(self, logits: Logits, labels: Labels) -> Values:
        """The target's logit and the largest other one."""
        return larger_of_two(logits, labels)
