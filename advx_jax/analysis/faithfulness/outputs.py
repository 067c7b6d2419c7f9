"""The one number of a classifier's answer that an explanation is an explanation of."""

from typing import Literal

import jax
import jax.numpy as jnp

from advx_jax.analysis.attribution.base import target_logits
from advx_jax.attacks.arrays import Images, Labels, Values
from advx_jax.attacks.ascent import at_least_float32
from advx_jax.attacks.base import Model

Output = Literal["logit", "probability"]
"""The target's logit z_t, or its probability, softmax(z)_t."""


def class_output(output: Output, model: Model, images: Images, targets: Labels) -> Values:
    """The target's logit or probability of each image."""
    if output == "logit":
        return target_logits(model, images, targets)
    probabilities = jax.nn.softmax(at_least_float32(model(images)))
    return jnp.take_along_axis(probabilities, targets[:, None], axis=-1)[:, 0]
