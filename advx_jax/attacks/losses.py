"""Losses that attacks with a fixed budget climb: the larger, the nearer a misclassification.

Each is per example. All take labels and targets; only targeted losses look at the targets.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from advx_jax.attacks.arrays import Images, Labels, Logits, Perturbations, Values
from advx_jax.attacks.ascent import at_least_float32, cross_entropy
from advx_jax.attacks.criteria import logit_lag
from advx_jax.errors import UserError

LossName = Literal["cross_entropy", "dlr", "targeted_dlr", "margin"]

CLASSES_NEEDED: dict[LossName, int] = {"cross_entropy": 2, "dlr": 3, "targeted_dlr": 4, "margin": 2}
"""How many classes a model needs to have for a loss."""

# Croce & Hein's denominators, which keep equal logits from giving 0/0.
_TINY = 1e-12
# Between logits of classes that are alive there is less; a ratio's gradient with more would round to 0.
_WIDEST = 1e12
# A class so far below is masked: no way leads to it, and the gradient of such a ratio would overflow.
_FARTHEST = 1e30


def dlr(logits: Logits, labels: Labels) -> Values:
    """Difference of logits ratio: -(z_y - max_{j≠y} z_j) / (z_π1 - z_π3), π sorting the logits downwards.

    Unlike the cross-entropy it does not change with the logits' scale. From "Reliable evaluation of
    adversarial robustness with an ensemble of diverse parameter-free attacks" (Croce and Hein 2020,
    arXiv 2003.01690).

    Raises:
        UserError: there are fewer than 3 classes.
    """
    top, order = _largest(logits, 3, "the DLR loss")
    other = jnp.where(order[:, 0] == labels, top[:, 1], top[:, 0])
    return _ratio(other - _logit(logits, labels), top[:, 0] - top[:, 2])


def targeted_dlr(logits: Logits, labels: Labels, targets: Labels) -> Values:
    """-(z_y - z_t) / (z_π1 - (z_π3 + z_π4)/2), towards the target t (arXiv 2003.01690).

    Raises:
        UserError: there are fewer than 4 classes.
    """
    top, _ = _largest(logits, 4, "the targeted DLR loss")
    return _ratio(_logit(logits, targets) - _logit(logits, labels), top[:, 0] - (top[:, 2] + top[:, 3]) / 2)


UNTARGETED: dict[LossName, Callable[[Array, Array], Array]] = {
    "cross_entropy": cross_entropy,
    "dlr": dlr,
    "margin": logit_lag,
}
"""Losses that lead away from the label, by name."""


def loss_values(name: LossName, logits: Array, labels: Array, targets: Array) -> Values:
    """The loss of that name, per example."""
    return targeted_dlr(logits, labels, targets) if name == "targeted_dlr" else UNTARGETED[name](logits, labels)


def loss_and_gradient(
    name: LossName,
    model: Callable[[Array], Array],
    points: Images,
    labels: Labels,
    targets: Labels,
    towards_label: bool = False,
) -> tuple[Values, Perturbations, Logits]:
    """What to climb from each point, its gradient, and the logits there.

    Args:
        name: of the loss.
        model: images to logits.
        points: to look at.
        labels: to lead away from.
        targets: looked at by targeted losses only.
        towards_label: lead towards the labels instead: the loss falls as what is climbed rises.
    """

    def total(points: Array) -> tuple[Array, tuple[Array, Array]]:
        logits = model(points)
        values = loss_values(name, logits, labels, targets)
        values = -values if towards_label else values
        return values.sum(), (values, logits)

    gradient, (values, logits) = jax.grad(total, has_aux=True)(points)
    return values, gradient, logits


def likeliest_targets(logits: Logits, labels: Labels, n_targets: int) -> Int[Array, "targets batch"]:
    """The classes other than the label, from the largest logit downwards; fewer if there are not so many.

    Args:
        logits: of the unperturbed images.
        labels: true classes.
        n_targets: how many are wanted.
    """
    n_classes = logits.shape[-1]
    own = jnp.arange(n_classes)[None] == labels[:, None]
    # Masked classes come last, but before the label itself.
    others = jnp.maximum(logits, jnp.finfo(logits.dtype).min)
    order = jnp.argsort(jnp.where(own, -jnp.inf, others), axis=-1, descending=True)
    return order[:, : min(n_targets, n_classes - 1)].T.astype(labels.dtype)


def _largest(logits: Array, count: int, who: str) -> tuple[Array, Array]:
    if logits.shape[-1] < count:
        raise UserError(f"expected at least {count} classes for {who}, got {logits.shape[-1]}")
    top, order = jax.lax.top_k(at_least_float32(logits), count)
    return top, order


def _logit(logits: Array, classes: Array) -> Array:
    return jnp.take_along_axis(at_least_float32(logits), classes[:, None], axis=-1)[:, 0]


def _ratio(gap: Array, spread: Array) -> Array:
    """Gap / spread, finite and with a finite gradient also where -inf or the like masks classes."""
    masked = gap < -_FARTHEST
    ratio = jnp.where(masked, 0, gap) / (jnp.minimum(spread, _WIDEST) + _TINY)
    return jnp.where(masked, -_FARTHEST, ratio)
