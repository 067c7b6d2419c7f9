"""Adversarial explanations and measured robustness for image classifiers, in JAX/Flax.

The method is that of "Adversarial Explanations for Understanding Image Classification
Decisions and Improved Neural Network Robustness" (Woods, Chen, Teuscher 2019, arXiv 1906.02896).

    import advx_jax as ax

    model, data = ax.load_model("resnet20-quick-robust"), ax.load_images("sample")
    ax.robust_accuracy(model, data.images[:16], data.labels[:16], ax.attacks.PGD(eps=8/255, norm="Linf"))

What is offered here is loaded when it is first used. Rooms, each importing only from those below it:

    cli/        flags, one-line errors, exit statuses; the commands stand beside it
    reports/    what a person looks at: picture trees, the HTML gallery, curves, JSON
    training/   state, step, Lipschitz penalty, loop, checkpoints
    runs/       long work: what is missing, a store to go on from, progress
    analysis/   explanations, attributions, distances and areas, robust accuracy, accuracy: functions over arrays
    attacks/    one contract, an attack a file
    networks/   Half-Huber ReLU, ResNet, the Classifier and its file format
    data/       CIFAR-10 from wherever it is
"""

import importlib
from typing import TYPE_CHECKING, Any

from advx_jax import _runtime

if TYPE_CHECKING:
    from advx_jax import attacks
    from advx_jax.analysis import attribution
    from advx_jax.analysis.accuracy import Predictions, accuracy, predict
    from advx_jax.analysis.attribution.many_images import attribute_images
    from advx_jax.analysis.faithfulness.scoring import score_attributions
    from advx_jax.analysis.robust_accuracy import robust_accuracy
    from advx_jax.analysis.robustness_area import accuracy_robustness_area, boundary_distances
    from advx_jax.api import Images, explain_images, load_images, load_model, save_model
    from advx_jax.attacks.base import AttackResult
    from advx_jax.attacks.criteria import Misclassified, NoBetterThanRandom, Targeted
    from advx_jax.errors import UserError
    from advx_jax.networks.adapters import (
        from_equinox,
        from_function,
        from_haiku,
        from_linen,
        from_nnx,
        from_random_function,
        normalized,
    )
    from advx_jax.networks.classifier import Classifier
    from advx_jax.networks.own_classifier import OwnClassifier
    from advx_jax.networks.random_classifier import RandomClassifier
    from advx_jax.reports.shown_explanation import Explanation, Explanations

__version__ = "0.1.0"

__all__ = [
    "AttackResult",
    "Classifier",
    "Explanation",
    "Explanations",
    "Images",
    "Misclassified",
    "NoBetterThanRandom",
    "OwnClassifier",
    "Predictions",
    "RandomClassifier",
    "Targeted",
    "UserError",
    "accuracy",
    "accuracy_robustness_area",
    "attacks",
    "attribute_images",
    "attribution",
    "boundary_distances",
    "explain_images",
    "from_equinox",
    "from_function",
    "from_haiku",
    "from_linen",
    "from_nnx",
    "from_random_function",
    "load_images",
    "load_model",
    "normalized",
    "predict",
    "robust_accuracy",
    "save_model",
    "score_attributions",
]

# Where each name is: importing this package costs nothing but this list.
_PLACES = {
    "advx_jax.analysis.accuracy": ("Predictions", "accuracy", "predict"),
    "advx_jax.analysis.attribution.many_images": ("attribute_images",),
    "advx_jax.analysis.faithfulness.scoring": ("score_attributions",),
    "advx_jax.analysis.robust_accuracy": ("robust_accuracy",),
    "advx_jax.analysis.robustness_area": ("accuracy_robustness_area", "boundary_distances"),
    "advx_jax.api": ("Images", "explain_images", "load_images", "load_model", "save_model"),
    "advx_jax.attacks.base": ("AttackResult",),
    "advx_jax.attacks.criteria": ("Misclassified", "NoBetterThanRandom", "Targeted"),
    "advx_jax.errors": ("UserError",),
    "advx_jax.networks.adapters": (
        *("from_equinox", "from_function", "from_haiku", "from_linen", "from_nnx", "from_random_function"),
        "normalized",
    ),
    "advx_jax.networks.classifier": ("Classifier",),
    "advx_jax.networks.own_classifier": ("OwnClassifier",),
    "advx_jax.networks.random_classifier": ("RandomClassifier",),
    "advx_jax.reports.shown_explanation": ("Explanation", "Explanations"),
}
# Modules that are offered whole.
_WHOLE = {"attacks": "advx_jax.attacks", "attribution": "advx_jax.analysis.attribution"}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}

_runtime.switch_off_fusion()


def __getattr__(name: str) -> Any:
    if name in _WHOLE:
        return importlib.import_module(_WHOLE[name])
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
