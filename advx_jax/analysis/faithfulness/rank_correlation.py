"""How alike two attributions of each example are."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from advx_jax.attacks.arrays import Values

Similarity = Literal["spearman", "pearson", "cosine"]

Rows = Float[Array, "batch values"]


def similarity(kind: Similarity, first: Rows, second: Rows) -> Values:
    """Spearman's ρ, Pearson's r or the cosine of each pair of rows; NaN where one is not finite, or has none."""
    # Ranks have an order for infinities and NaN, too.
    finite = (jnp.isfinite(first) & jnp.isfinite(second)).all(-1)
    if kind == "cosine":
        return jnp.where(finite, _cosine(first, second), jnp.nan)
    found = pearson(ranks(first), ranks(second)) if kind == "spearman" else pearson(first, second)
    return jnp.where(finite, found, jnp.nan)


def pearson(first: Rows, second: Rows) -> Values:
    """Pearson's correlation of each pair of rows; NaN where one of them is constant."""
    return _cosine(_centred(first), _centred(second))


def ranks(rows: Rows) -> Rows:
    """Rank of each value among its row's, from 1; equal values share the mean of their ranks."""

    def of_row(row: Array) -> Array:
        ascending = jnp.sort(row)
        below, not_above = (jnp.searchsorted(ascending, row, side=side) for side in ("left", "right"))
        return (below + not_above + 1).astype(row.dtype) / 2

    return jax.vmap(of_row)(rows)


def _centred(rows: Rows) -> Rows:
    # A constant row's mean may round, and what is left would correlate with something.
    constant = (rows == rows[:, :1]).all(-1, keepdims=True)
    return jnp.where(constant, 0, rows - rows.mean(-1, keepdims=True))


def _cosine(first: Rows, second: Rows) -> Values:
    # Dividing by the largest entry first keeps squares from underflowing.
    first, second = (row / jnp.abs(row).max(-1, keepdims=True) for row in (first, second))
    return (first * second).sum(-1) / jnp.sqrt(jnp.square(first).sum(-1) * jnp.square(second).sum(-1))
