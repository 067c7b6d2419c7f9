"""How good explanations are, in numbers: one contract (`Metric`), a metric a file, batched and compiled.

from advx_jax.analysis.faithfulness import find_metric

areas = find_metric("deletion", baseline="mean")(model, images, targets, attributions)
"""

from advx_jax.analysis.faithfulness.base import Cost, Method, Metric
from advx_jax.analysis.faithfulness.bootstrap import Interval, bootstrap_interval
from advx_jax.analysis.faithfulness.completeness import Completeness
from advx_jax.analysis.faithfulness.complexity import Complexity, Sparseness
from advx_jax.analysis.faithfulness.counterfactual import CounterfactualQuality, counterfactual_quality
from advx_jax.analysis.faithfulness.faithfulness_correlation import FaithfulnessCorrelation
from advx_jax.analysis.faithfulness.infidelity import Infidelity
from advx_jax.analysis.faithfulness.named import METRICS, find_metric
from advx_jax.analysis.faithfulness.parameter_randomisation import ParameterRandomisation
from advx_jax.analysis.faithfulness.pixel_flipping import PixelFlipping
from advx_jax.analysis.faithfulness.random_logit import RandomLogit
from advx_jax.analysis.faithfulness.removal import Deletion, Insertion
from advx_jax.analysis.faithfulness.road import ROAD, ROADLeastFirst
from advx_jax.analysis.faithfulness.sensitivity import AverageSensitivity, MaxSensitivity

__all__ = [
    "METRICS",
    "ROAD",
    "AverageSensitivity",
    "Completeness",
    "Complexity",
    "Cost",
    "CounterfactualQuality",
    "Deletion",
    "FaithfulnessCorrelation",
    "Infidelity",
    "Insertion",
    "Interval",
    "MaxSensitivity",
    "Method",
    "Metric",
    "ParameterRandomisation",
    "PixelFlipping",
    "ROADLeastFirst",
    "RandomLogit",
    "Sparseness",
    "bootstrap_interval",
    "counterfactual_quality",
    "find_metric",
]
