"""Noisy linear imputation: what is removed becomes the weighted mean of what lies around it, so that no hole shows.

From "A consistent and efficient evaluation strategy for attribution methods" (Rong, Leemann, Borisov, Kasneci and
Kasneci 2022, arXiv 2202.00449), section 5.
"""

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Bool, Float

# Weights of the four pixels beside a pixel, and of the four at its corners.
_BESIDE, _AT_CORNERS = 1 / 6, 1 / 12
_TOLERANCE = 1e-6


def imputed(
    images: Float[Array, "batch height width channels"], removed: Bool[Array, "batch height width 1"]
) -> Float[Array, "batch height width channels"]:
    """Replace removed pixels: each is Σ_j w_j x_j / Σ_j w_j over those of its eight neighbours that exist.

    Neighbours that are removed too are unknowns of the same system of equations. It is symmetric and positive definite
    as long as any pixel is left, and is solved by conjugate gradients, to 1e-6 of its right side.

    Args:
        images: the whole ones.
        removed: pixels, with all their channels.
    """
    return jax.vmap(_imputed)(images, removed)


def _imputed(image: Float[Array, "height width channels"], removed: Bool[Array, "height width 1"]) -> Array:
    unknown = removed.astype(image.dtype)
    total = _around(jnp.ones_like(unknown))

    def left_side(values: Array) -> Array:
        return unknown * (total * values - _around(values))

    right_side = unknown * _around((1 - unknown) * image)
    solved, _ = cg(left_side, right_side, tol=_TOLERANCE, maxiter=image.shape[0] * image.shape[1])
    return jnp.where(removed, solved, image)


def _around(values: Float[Array, "height width channels"]) -> Float[Array, "height width channels"]:
    """Weighted sum over the neighbours of each pixel; there is nothing outside."""
    height, width, _ = values.shape
    padded = jnp.pad(values, ((1, 1), (1, 1), (0, 0)))
    offsets = [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    weights = [_AT_CORNERS if 1 not in offset else _BESIDE for offset in offsets]
    return sum(
        (w * padded[i : i + height, j : j + width] for w, (i, j) in zip(weights, offsets, strict=True)),
        jnp.zeros_like(values),
    )
