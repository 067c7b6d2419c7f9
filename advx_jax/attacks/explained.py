"""What attacks that make explanations end with."""

from typing import NamedTuple

from advx_jax.attacks.arrays import Counts, Mask, Perturbations


class Explained(NamedTuple):
    """Of each example, whether or not it is over the boundary.

    Attributes:
        perturbation: δ, the explanation.
        first_stop: first step at which δ had reached its bound; the number of steps if the explanation has not.
        reached: whether it has.
        finite: no logit was NaN, nor infinite where that decides.
    """

    perturbation: Perturbations
    first_stop: Counts
    reached: Mask
    finite: Mask
