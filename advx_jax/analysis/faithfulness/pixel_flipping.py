"""Pixel flipping: how far the target's output falls, on the average, while pixels are removed in their order.

From "On pixel-wise explanations for non-linear classifier decisions by layer-wise relevance propagation" (Bach et al.
2015, PLOS ONE 10(7)), with the area over the curve of "Evaluating the visualization of what a deep neural network has
learned" (Samek et al. 2017, arXiv 1509.06321), equation 12.
"""

import dataclasses

from jaxtyping import Array

from advx_jax.analysis.faithfulness.outputs import Output
from advx_jax.analysis.faithfulness.removal import Removal
from advx_jax.attacks.arrays import Values


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelFlipping(Removal):
    """AOPC = 1/(L+1) · Σ_{k=0..L} (f_t(x⁰) - f_t(xᵏ)), xᵏ after k of L steps, the most important pixels first."""

    higher_is_better = True
    name: str = "pixel_flipping"
    output: Output = "logit"

    def summary(self, curve: Array, shares: Array) -> Values:
        """Area over the perturbation curve."""
        del shares
        return (curve[:, :1] - curve).mean(-1)
