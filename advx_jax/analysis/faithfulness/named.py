"""Metrics by the names that commands and results know them by."""

from typing import Any

from advx_jax.analysis.faithfulness.base import Metric
from advx_jax.analysis.faithfulness.completeness import Completeness
from advx_jax.analysis.faithfulness.complexity import Complexity, Sparseness
from advx_jax.analysis.faithfulness.faithfulness_correlation import FaithfulnessCorrelation
from advx_jax.analysis.faithfulness.infidelity import Infidelity
from advx_jax.analysis.faithfulness.parameter_randomisation import ParameterRandomisation
from advx_jax.analysis.faithfulness.pixel_flipping import PixelFlipping
from advx_jax.analysis.faithfulness.random_logit import RandomLogit
from advx_jax.analysis.faithfulness.removal import Deletion, Insertion
from advx_jax.analysis.faithfulness.road import ROAD, ROADLeastFirst
from advx_jax.analysis.faithfulness.sensitivity import AverageSensitivity, MaxSensitivity
from advx_jax.errors import UserError
from advx_jax.messages import nearest

_ALL: tuple[Metric, ...] = (
    Deletion(),
    Insertion(),
    Deletion(name="deletion_patch", unit="patch"),
    Insertion(name="insertion_patch", unit="patch"),
    PixelFlipping(),
    ROAD(),
    ROADLeastFirst(),
    FaithfulnessCorrelation(),
    Infidelity(),
    Infidelity(name="infidelity_scaled", scaled=True),
    MaxSensitivity(),
    AverageSensitivity(),
    ParameterRandomisation(),
    RandomLogit(),
    Complexity(),
    Sparseness(),
    Completeness(),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
"""All metrics, with their usual settings."""


def find_metric(name: str, **settings: Any) -> Metric:
    """A metric by name, in any case, with dashes or underscores.

    Args:
        name: one of `METRICS`.
        settings: other than the usual ones.

    Raises:
        UserError: there is no such metric, or it has no such setting.
    """
    plain = name.lower().replace("-", "_")
    if plain not in METRICS:
        raise UserError(f"expected a metric ({', '.join(METRICS)}), got {name!r}{nearest(plain, METRICS)}")
    return METRICS[plain].with_settings(**settings)
