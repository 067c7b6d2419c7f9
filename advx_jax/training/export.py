"""The trained network as a file that every other command takes."""

from pathlib import Path

import jax
import numpy as np

from advx_jax.networks.classifier import Classifier, Provenance
from advx_jax.networks.files import save_network
from advx_jax.networks.psi import psi_of
from advx_jax.training.recipe import Penalty, Recipe
from advx_jax.training.state import TrainState, classifier_of

BEST_NETWORK = "best.safetensors"
"""File in a workdir: the network that was best on the held-out images."""


def export_network(path: Path, recipe: Recipe, state: TrainState, passes_before: int = 0) -> None:
    """Write the network in its present state, whole or not at all.

    Args:
        path: of the safetensors file.
        recipe: what the network was trained by.
        state: of its training.
        passes_before: training passes of the network that training started from.
    """
    attack = recipe.attack
    passes_per_step = {"none": 1, "l2": attack.steps + 1, "l2_min": attack.steps + 2}[attack.kind]
    integrator = float(state.integrator) if recipe.penalty is not None else None
    provenance = Provenance(
        name=recipe.name,
        options=(
            ("adversarial_training", attack.kind != "none"),
            ("l2_min", attack.kind == "l2_min"),
            ("robust_additions", recipe.penalty is not None),
        ),
        psi_integrator=integrator,
        batches_tracked=passes_before + int(state.step) * passes_per_step,
        psi=_psi(recipe.penalty, integrator),
    )
    trained = classifier_of(state, recipe)
    on_host = Classifier(jax.tree.map(np.asarray, trained.variables), trained.architecture, trained.class_names)
    save_network(path, on_host, provenance)


def _psi(penalty: Penalty | None, integrator: float | None) -> float | None:
    if penalty is None or integrator is None:
        return None
    return psi_of(integrator, penalty.weight_at_zero, penalty.rate)
