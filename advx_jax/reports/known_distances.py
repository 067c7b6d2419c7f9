"""Distances that were found elsewhere: by other networks' results of ours, or by other libraries."""

import math
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from advx_jax.analysis.optimality import Distances
from advx_jax.errors import UserError
from advx_jax.reports.results_json import read_json

_SHOWN = 5


class KnownDistances(NamedTuple):
    """Distances of images by several attacks.

    Attributes:
        settings: norm, and network and images where the file tells them.
        indices: of the images.
        attacks: by name, the distance of each image; infinite where none was found.
        optimality: by name, the local optimality that the file tells.
    """

    settings: Mapping[str, Any]
    indices: Sequence[int]
    attacks: Mapping[str, Distances]
    optimality: Mapping[str, float]

    def of(self, indices: Sequence[int]) -> dict[str, Distances]:
        """Distances of these images, in this order."""
        places = {index: place for place, index in enumerate(self.indices)}
        order = [places[index] for index in indices]
        return {name: distances[order] for name, distances in self.attacks.items()}


def read_known(path: Path) -> KnownDistances:
    """Read `attackbench.json`, or a file of that form: `settings` with a `norm`, `indices`, and `attacks`.

    Raises:
        UserError: it cannot be read, or has another form.
    """
    results = read_json(path)
    try:
        settings, attacks = dict(results["settings"]), list(results["attacks"])
        indices = [operator.index(index) for index in results["indices"]]
        settings["norm"]
        found = {str(attack["name"]): _numbers(attack["distances"], len(indices)) for attack in attacks}
        told = {str(attack["name"]): attack.get("local_optimality") for attack in attacks}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"expected settings with a norm, indices, and attacks with a name and a distance for each index in {path}, "
            f"got others ({type(error).__name__}: {error})"
        ) from error
    optimality = {name: float(value) for name, value in told.items() if isinstance(value, int | float)}
    return KnownDistances(settings, indices, found, optimality)


def check_known(known: KnownDistances, path: Path, settings: Mapping[str, Any], indices: Sequence[int]) -> None:
    """Make sure that distances are of this network and norm, and of all these images.

    Raises:
        UserError: they are not.
    """
    for name in ("norm", "network_sha256", "data_sha256"):
        there = known.settings.get(name, settings[name])
        if there != settings[name]:
            raise UserError(f"expected distances with {name}={settings[name]} in {path}, got {there}")
    missing = sorted(set(indices) - set(known.indices))
    if missing:
        shown = ", ".join(map(str, missing[:_SHOWN])) + (", …" if len(missing) > _SHOWN else "")
        raise UserError(f"expected distances of all {len(indices)} images in {path}, got none of {shown}")


def _numbers(values: Any, n: int) -> Distances:
    distances = np.array([math.inf if value is None else float(value) for value in values])
    if len(distances) != n or not (distances >= 0).all():
        raise ValueError(f"{len(distances)} distances of {n} images")
    return distances
