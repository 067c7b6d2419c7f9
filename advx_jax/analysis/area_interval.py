"""How far an area may be off because it was measured on a few images only."""

import jax
import numpy as np
from jaxtyping import Array, Key

from advx_jax.analysis.confidence import ends_at
from advx_jax.analysis.robustness_area import DistancesLike, robustness_curve

_RESAMPLES = 1000


def area_interval(
    distances: DistancesLike, n_classes: int, key: Key[Array, ""] | None = None, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of an accuracy-robustness area, from 1000 areas of as many images drawn with replacement.

    From "An introduction to the bootstrap" (Efron and Tibshirani 1993), chapter 13. It tells how much areas differ by
    the draw of images, and nothing about the attack: a stronger one may find smaller distances of all of them.

    Args:
        distances: of the images, as for `robustness_curve`.
        n_classes: K, the network's.
        key: of the draws; `jax.random.key(0)` if None.
        level: share of such intervals that are to hold the area of all images there are.

    Returns:
        The lower and the upper end; infinite where the area of so many draws has no end, NaN without images.

    Raises:
        UserError: for distances and K as `robustness_curve` does, or the level is none.
    """
    ends = ends_at(level)
    if np.isnan(robustness_curve(distances, n_classes).area):
        return np.nan, np.nan
    known = np.asarray(distances, np.float64)
    known = known[~np.isnan(known)]
    key = jax.random.key(0) if key is None else key
    drawn = np.asarray(jax.random.randint(key, (_RESAMPLES, len(known)), 0, len(known)))
    areas = [robustness_curve(known[rows], n_classes).area for rows in drawn]
    # An area that was seen: between a finite and an infinite one there is none.
    low, high = np.quantile(areas, ends, method="inverted_cdf")
    return float(low), float(high)
