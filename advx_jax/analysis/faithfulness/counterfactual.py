"""Quality of adversarial explanations as counterfactuals: whether they reach their class, and how little they change.

The criteria are those of "Counterfactual explanations and algorithmic recourses for machine learning: a review" (Verma
et al. 2020, arXiv 2010.10596), section 3, for images: validity, closeness and sparsity.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from advx_jax.analysis.faithfulness.outputs import class_output
from advx_jax.attacks.arrays import Images, Labels, Mask, Values
from advx_jax.attacks.base import Model
from advx_jax.attacks.checks import ImagesLike, LabelsLike, checked
from advx_jax.attacks.norms import rms
from advx_jax.attacks.projections import l2_norm, linf_norm
from advx_jax.errors import UserError
from advx_jax.networks.pytrees import as_pytree

# Values that are no further apart are the same in a picture of 8 bits.
_VISIBLE = 0.5 / 255


class CounterfactualQuality(NamedTuple):
    """Of each explanation δ = explained image - image.

    Attributes:
        valid: the explained image is classified as the target.
        confidence: p_t of the explained image.
        gained: p_t of the explained image less that of the image; at the size that the explanation has.
        l1: Σ|δ|.
        l2: √Σδ².
        linf: max|δ|.
        rms: L2 / √n, the paper's measure, which its ρ bounds.
        sparsity: share of the values that change by no more than half a grey level of 255.
    """

    valid: Mask
    confidence: Values
    gained: Values
    l1: Values
    l2: Values
    linf: Values
    rms: Values
    sparsity: Values


def counterfactual_quality(
    model: Model, images: ImagesLike, explanations: Any, targets: LabelsLike
) -> CounterfactualQuality:
    """Judge adversarial explanations.

    Args:
        model: images to logits, in evaluation mode.
        images: x in [0,1].
        explanations: x + δ, in the shape of the images; not necessarily in [0,1], as the paper's are not clipped.
        targets: the class that each was changed towards.

    Raises:
        UserError: images, explanations, targets or model are none to work with.
    """
    x, y, _ = checked(model, images, targets, "target")
    shape = jnp.shape(explanations)
    if shape != x.shape:
        raise UserError(f"expected explanations of the images' shape {x.shape}, got {shape}")
    found: CounterfactualQuality = quality(as_pytree(model), x, jnp.asarray(explanations, x.dtype), y)
    return found


@jax.jit
def quality(model: Model, images: Images, explanations: Images, targets: Labels) -> CounterfactualQuality:
    """Judge adversarial explanations with arguments that have been checked, see `counterfactual_quality`."""
    change = explanations - images
    axes = tuple(range(1, change.ndim))
    logits = model(explanations)
    confidence: Array = class_output("probability", model, explanations, targets)
    return CounterfactualQuality(
        # NaN has no largest logit, though argmax names one.
        valid=(logits.argmax(-1) == targets) & ~jnp.isnan(logits).any(-1),
        confidence=confidence,
        gained=confidence - class_output("probability", model, images, targets),
        l1=jnp.abs(change).sum(axes),
        l2=l2_norm(change),
        linf=linf_norm(change),
        rms=rms(change),
        sparsity=(jnp.abs(change) <= _VISIBLE).mean(axes, dtype=change.dtype),
    )
