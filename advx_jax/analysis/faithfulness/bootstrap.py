"""Confidence intervals of means over images, without assumptions about how values are distributed."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key

from advx_jax.analysis.confidence import ends_at
from advx_jax.errors import UserError

_RESAMPLES = 2000


class Interval(NamedTuple):
    """A mean and where it lies.

    Attributes:
        mean: of the values.
        low: lower end of the interval.
        high: upper end.
        n: how many values counted.
    """

    mean: float
    low: float
    high: float
    n: int


def bootstrap_interval(values: Any, key: Key[Array, ""] | None = None, level: float = 0.95) -> Interval:
    """Percentile interval of the mean, from 2000 means of as many values drawn with replacement.

    From "An introduction to the bootstrap" (Efron and Tibshirani 1993), chapter 13.

    Args:
        values: one for each image. NaN is left out, as if there had been no such image.
        key: of the draws; `jax.random.key(0)` if None.
        level: share of such intervals that are to hold the true mean.

    Returns:
        The interval; all NaN where no value counts. Where the mean is not finite, the ends are the extreme values.

    Raises:
        UserError: there is no list of values, or the level is none.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        raise UserError(f"expected a value for each image, of shape (n,), got shape {array.shape}")
    ends = ends_at(level)
    known = array[~np.isnan(array)]
    if len(known) == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    # Of what is left of the mean, so that float32 does for large numbers that differ little.
    mean = known.mean()
    if not np.isfinite(mean):
        return Interval(float(mean), float(known.min()), float(known.max()), len(known))
    around = np.asarray(_means(jax.random.key(0) if key is None else key, jnp.asarray(known - mean, jnp.float32)))
    low, high = np.quantile(around.astype(np.float64), ends)
    return Interval(float(mean), float(mean + low), float(mean + high), len(known))


@jax.jit
def _means(key: Key[Array, ""], values: Float[Array, " n"]) -> Float[Array, " resamples"]:
    def one(key: Array) -> Array:
        return values[jax.random.randint(key, values.shape, 0, len(values))].mean()

    return lax.map(one, jax.random.split(key, _RESAMPLES))
