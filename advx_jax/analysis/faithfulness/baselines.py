"""What removed pixels are replaced by, and what differences are taken to: the baselines of attributions, undrawn."""

from typing import Literal

import jax.numpy as jnp

from advx_jax.analysis.attribution import baselines
from advx_jax.attacks.arrays import Images
from advx_jax.attacks.base import example_keys

Baseline = Literal["black", "mean", "blurred"]
"""All 0; each image's mean colour; or each image blurred until no detail is left."""

# In pixels, as Integrated Gradients blurs unless told otherwise: completeness is looked at with the same baseline.
_BLUR = 4.0


def baseline_images(name: Baseline, images: Images) -> Images:
    """The baseline of each image, in the images' shape.

    Args:
        name: which.
        images: x, (batch, height, width, channels).
    """
    return baselines.baseline_images(name, images, example_keys(None, jnp.arange(len(images))), _BLUR)
