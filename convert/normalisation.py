"""How images are normalised before a network's first layer: (image - mean) / std, by channel."""

import math
from dataclasses import dataclass

import numpy as np

from advx_jax.errors import UserError
from advx_jax.messages import shown
from advx_jax.networks.families import CIFAR10_MEAN, CIFAR10_STD, CIFAR100_MEAN, CIFAR100_STD

# CIFAR's as RobustBench and DeepMind's networks have them.
_NAMED = {
    "none": ((0.0,), (1.0,)),
    "cifar10": (CIFAR10_MEAN, CIFAR10_STD),
    "cifar100": (CIFAR100_MEAN, CIFAR100_STD),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
ASKED_FOR = f"--normalise={'|'.join(_NAMED)}|0.49,0.48,0.45/0.25,0.24,0.26"
"""The flag that says it, where a file does not."""

# Of numbers on the [0,1] scale that were kept in 16 bits.
_PRECISION = 2e-3


@dataclass(frozen=True)
class Normalisation:
    """Means and standard deviations of the channels, of images on the [0,1] scale.

    Attributes:
        mean: of each channel, or one for all.
        std: of each channel, or one for all.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what cannot normalise."""
        fits = len(self.mean) == len(self.std) >= 1 and all(map(math.isfinite, self.mean))
        if not fits or not all(0 < value < math.inf for value in self.std):
            raise UserError(
                f"expected as many finite means as positive standard deviations to normalise images with, got {self}"
            )
        if max(map(abs, self.mean)) > 1:
            raise UserError(f"expected means and standard deviations of images in [0,1], got {self}: divide all by 255")

    def __str__(self) -> str:
        """As --normalise takes it, with a few digits."""
        return f"{_listed(self.mean)}/{_listed(self.std)}"

    def is_near(self, other: "Normalisation") -> bool:
        """Whether the numbers are the same, but for their precision in files."""
        return all(
            len(mine) == len(theirs) and np.allclose(mine, theirs, rtol=0, atol=_PRECISION)
            for mine, theirs in ((self.mean, other.mean), (self.std, other.std))
        )

    @classmethod
    def of_tensors(cls, mean: np.ndarray, std: np.ndarray) -> "Normalisation":
        """Take it from two tensors with one number for each channel."""
        return cls(tuple(map(float, mean.ravel())), tuple(map(float, std.ravel())))

    @classmethod
    def parse(cls, text: str) -> "Normalisation":
        """Read what a person wrote: a name, or means/standard deviations.

        Raises:
            UserError: it is neither.
        """
        if text in _NAMED:
            return cls(*_NAMED[text])
        try:
            mean, std = (tuple(float(value) for value in half.split(",")) for half in text.split("/"))
        except ValueError as error:
            raise UserError(f"expected {ASKED_FOR}, got {shown(text)}") from error
        told = cls(mean, std)
        # Files may scale otherwise, and are right; who writes 0/255 means images in [0,255].
        if max(std) > 1:
            raise UserError(
                f"expected standard deviations of images in [0,1], at most 1, got {told}: divide all by 255"
            )
        return told

    def constants(self, channels: int) -> dict[str, np.ndarray]:
        """The Flax variables `mean` and `std` of a network for images of so many channels, float32.

        Raises:
            UserError: it is one for another number of channels.
        """
        if len(self.mean) not in (1, channels):
            raise UserError(f"expected a normalisation for {channels} channels, got one for {len(self.mean)}")
        halves = {"mean": self.mean, "std": self.std}
        return {
            name: np.array(np.broadcast_to(np.asarray(half, np.float32), channels)) for name, half in halves.items()
        }


def _listed(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values[:4]) + (",…" if len(values) > 4 else "")
