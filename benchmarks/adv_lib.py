"""adv-lib's minimum-norm attacks, and what they find within a budget of passes through a PyTorch network.

Needs `pip install --no-deps adv-lib==0.2.8`.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from advx_jax.attacks.projections import Norm
from advx_jax.errors import UserError

# A point that float32 rounding has put beside the box is one in it.
_BESIDE_BOX = 1e-6
# Largest radii of the search of adv-lib's APGD: beyond all distances of these networks.
_LARGEST: dict[Norm, float] = {"L1": 200.0, "L2": 4.0, "Linf": 0.25}
_ORDERS: dict[Norm, float] = {"L0": 0, "L1": 1, "L2": 2, "Linf": math.inf}


class Peer(NamedTuple):
    """An attack of adv-lib's.

    Attributes:
        name: for people.
        place: module and function in `adv_lib.attacks`.
        steps: name of the argument with the number of steps, and passes that each takes.
        options: others than its defaults.
    """

    name: str
    place: str
    steps: tuple[str, int]
    options: Mapping[str, Any] = {}

    def load(self, budget: int) -> Callable[..., Any]:
        """The attack with as many steps as the budget allows.

        Raises:
            UserError: adv-lib is not installed.
        """
        from reference.peers import peer

        module, function = self.place.split(".")
        try:
            attack = getattr(peer(f"adv_lib.attacks.{module}"), function)
        except ImportError as error:
            raise UserError(f"expected adv-lib (pip install --no-deps adv-lib==0.2.8), got {error}") from error
        name, passes = self.steps
        return functools.partial(attack, **self.options, **{name: budget // passes})

    def settings(self, budget: int) -> dict[str, Any]:
        """What its distances depend on, in JSON's values, which have no infinity for the order of a norm."""
        options = {name: "inf" if value == math.inf else value for name, value in self.options.items()}
        return {"attack": self.place, "budget": budget, **options}


def peers(norm: Norm) -> list[Peer]:
    """Those that minimise a norm, as their authors set them."""
    order = {"norm": _ORDERS[norm]}
    found = [Peer("adv-lib FMN", "fast_minimum_norm.fmn", ("steps", 2), order)]
    if norm == "L0":
        return [*found, Peer("adv-lib σ-zero", "sigma_zero.sigma_zero", ("num_steps", 2))]
    if norm == "L2":
        found += [
            # Levels round points to 8 bits, which no other attack here does.
            Peer("adv-lib DDN", "decoupled_direction_norm.ddn", ("steps", 2), {"levels": None}),
            Peer("adv-lib PDGD", "primal_dual_gradient_descent.pdgd", ("num_steps", 2)),
        ]
    else:
        found.append(Peer("adv-lib PDPGD", "primal_dual_gradient_descent.pdpgd", ("num_steps", 2), order))
    if norm != "Linf":
        distance = {"distance": norm.lower()}
        found.append(Peer("adv-lib ALMA", "augmented_lagrangian.alma", ("num_steps", 2), distance))
    search = order | {"max_eps": _LARGEST[norm], "binary_search_steps": 20}
    # 20 runs, each with a pass forward and back at its start and at each step, and one at its end.
    return [*found, Peer("adv-lib APGD", "auto_pgd.minimal_apgd", ("n_iter", 42), search)]


class BudgetSpentError(Exception):
    """Every image has had its passes."""


def smallest_seen(
    attack: Callable[..., Any], network: Any, images: Any, labels: Any, norm: Norm, budget: int
) -> np.ndarray:
    """Distances of the nearest misclassified points that a network sees within a budget.

    Args:
        attack: takes a network, images and labels, and gives points.
        network: in evaluation mode.
        images: as tensors, of the classes `labels`.
        labels: true classes.
        norm: of the distances.
        budget: passes for each image, forward and backward.

    Returns:
        Of each image; infinite where there is none.
    """
    import torch

    passes, smallest = 0, torch.full((len(images),), math.inf, dtype=torch.float64, device=images.device)

    class Watched(torch.nn.Module):
        def forward(self, points: Any) -> Any:
            nonlocal passes, smallest
            if points.shape != images.shape:
                raise RuntimeError(f"expected points of all {len(images)} images, got {len(points)}")
            if passes >= budget:
                raise BudgetSpentError
            passes += 1
            logits = network(points)
            with torch.no_grad():
                inside = ((points >= -_BESIDE_BOX) & (points <= 1 + _BESIDE_BOX)).flatten(1).all(1)
                sizes = torch.linalg.vector_norm((points - images).flatten(1).double(), _ORDERS[norm], 1)
                over = inside & (logits.argmax(1) != labels)
                smallest = torch.where(over, torch.minimum(smallest, sizes), smallest)
            if logits.requires_grad:
                logits.register_hook(count)
            return logits

    def count(_: Any) -> None:
        nonlocal passes
        passes += 1

    watched = Watched().eval()
    try:
        found = attack(watched, images, labels)
        with torch.no_grad():
            watched(found)
    except BudgetSpentError:
        pass
    return smallest.cpu().numpy()
