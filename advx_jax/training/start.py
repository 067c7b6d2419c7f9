"""The network that training starts from: whether it fits, and the weight of the Lipschitz penalty that it brings."""

import math
from typing import NamedTuple

from advx_jax.errors import UserError
from advx_jax.networks.classifier import Classifier, Provenance
from advx_jax.networks.psi import PUBLISHED_RATE, PUBLISHED_WEIGHT_AT_ZERO, psi_of
from advx_jax.training.recipe import Penalty, Recipe

# To this part of it ψ is known where it was rounded to whole numbers.
_PRECISION = 1e-4

Start = tuple[Classifier, Provenance]


class StartingPoint(NamedTuple):
    """Where the controller of the penalty's weight starts.

    Attributes:
        integrator: r.
        assumed: whether that is the network's own r, of which nothing tells what ψ it meant.
    """

    integrator: float
    assumed: bool = False


def check_start(recipe: Recipe, classifier: Classifier) -> None:
    """Make sure that training by a recipe can start from a network.

    Raises:
        UserError: it has another architecture.
    """
    if classifier.architecture != recipe.architecture:
        raise UserError(
            f"config.init_from: expected a network of architecture {recipe.architecture}, got {classifier.architecture}"
        )


def starting_point(penalty: Penalty | None, provenance: Provenance) -> StartingPoint:
    """The r with which a recipe's penalty has the weight ψ that a network was trained with, or 0 if that is below ψ₀.

    Where r means that weight in the recipe already, it is taken to the bit.

    Args:
        penalty: of the recipe.
        provenance: of the network.
    """
    integrator, psi = provenance.psi_integrator, provenance.psi
    if penalty is None:
        return StartingPoint(0.0)
    if psi is None:
        # Files that do not tell it are of the published constants, or of an earlier version.
        published = (penalty.weight_at_zero, penalty.rate) == (PUBLISHED_WEIGHT_AT_ZERO, PUBLISHED_RATE)
        return StartingPoint(integrator or 0.0, assumed=integrator is not None and not published)
    if integrator is not None:
        meant = psi_of(integrator, penalty.weight_at_zero, penalty.rate)
        if meant is not None and math.isclose(meant, psi, rel_tol=_PRECISION):
            return StartingPoint(integrator)
    return StartingPoint(max(0.0, math.log(psi / penalty.weight_at_zero) / penalty.rate))


def assumed_weight(recipe: Recipe, provenance: Provenance) -> str | None:
    """What to tell of a network whose ψ can only be assumed; None where it is known, or there is no penalty."""
    point = starting_point(recipe.penalty, provenance)
    if recipe.penalty is None or not point.assumed:
        return None
    psi = psi_of(point.integrator, recipe.penalty.weight_at_zero, recipe.penalty.rate)
    return (
        f"config.init_from: {provenance.name} does not tell the weight ψ that its penalty had: going on with its "
        f"integrator, {point.integrator:.6g}, by which ψ is {psi or math.nan:.6g} in this recipe"
    )
