"""Attributions of any classifier's logits, all with one contract (`Attribution`): which values speak for a class."""

from advx_jax.analysis.attribution.adversarial import AdversarialExplanation
from advx_jax.analysis.attribution.base import Attribution, as_attribution, target_gradients, target_logits
from advx_jax.analysis.attribution.baselines import Baseline, baseline_images
from advx_jax.analysis.attribution.expected_gradients import ExpectedGradients
from advx_jax.analysis.attribution.grad_cam import GradCAM
from advx_jax.analysis.attribution.gradient import Gradient
from advx_jax.analysis.attribution.input_x_gradient import InputXGradient
from advx_jax.analysis.attribution.integrated_gradients import IntegratedGradients, completeness_gap
from advx_jax.analysis.attribution.linen_layers import layers_of
from advx_jax.analysis.attribution.magnitude import Magnitude
from advx_jax.analysis.attribution.many_images import attribute_images
from advx_jax.analysis.attribution.named import METHODS, VARIANTS, find_method
from advx_jax.analysis.attribution.noisy import sample_noise
from advx_jax.analysis.attribution.occlusion import Occlusion
from advx_jax.analysis.attribution.random_values import RandomValues
from advx_jax.analysis.attribution.smoothgrad import SmoothGrad
from advx_jax.analysis.attribution.vargrad import VarGrad

__all__ = [
    "METHODS",
    "VARIANTS",
    "AdversarialExplanation",
    "Attribution",
    "Baseline",
    "ExpectedGradients",
    "GradCAM",
    "Gradient",
    "InputXGradient",
    "IntegratedGradients",
    "Magnitude",
    "Occlusion",
    "RandomValues",
    "SmoothGrad",
    "VarGrad",
    "as_attribution",
    "attribute_images",
    "baseline_images",
    "completeness_gap",
    "find_method",
    "layers_of",
    "sample_noise",
    "target_gradients",
    "target_logits",
]
