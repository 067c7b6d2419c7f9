"""What is removed from images as one: single values, pixels with all their channels, or square patches."""

import math
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from advx_jax.errors import UserError

Unit = Literal["value", "pixel", "patch"]

UnitScores = Float[Array, "batch units"]
"""An attribution of each unit."""


class Units(NamedTuple):
    """How images are divided.

    Attributes:
        kind: of unit.
        side: of a patch, in pixels; what is left over at the lower and right edges makes smaller ones.
        shape: height, width and channels of the images.
    """

    kind: Unit
    side: int
    shape: tuple[int, ...]

    @property
    def n_units(self) -> int:
        """How many units an image has."""
        height, width, channels = self.shape
        if self.kind == "value":
            return height * width * channels
        side = self.side if self.kind == "patch" else 1
        return math.ceil(height / side) * math.ceil(width / side)

    def check(self, attributions_shape: tuple[int, ...]) -> None:
        """Refuse attributions that say nothing of single values where those are the units.

        Raises:
            UserError: in one line.
        """
        if self.kind == "value" and len(attributions_shape) == 3 and self.shape[-1] != 1:
            wanted = (attributions_shape[0], *self.shape)
            raise UserError(
                f"expected attributions of shape {wanted} for units of single values, got {attributions_shape}: "
                "choose unit='pixel'"
            )

    def scores(self, attributions: Float[Array, "batch height width *channels"]) -> UnitScores:
        """The attribution of each unit: the sum of its values' attributions."""
        batch = len(attributions)
        if self.kind == "value":
            return attributions.reshape(batch, -1)
        pixels = attributions.sum(-1) if attributions.ndim == 4 else attributions
        if self.kind == "pixel":
            return pixels.reshape(batch, -1)
        side = self.side
        down, across = (-length % side for length in self.shape[:2])
        padded = jnp.pad(pixels, ((0, 0), (0, down), (0, across)))
        rows, columns = (length // side for length in padded.shape[1:])
        return padded.reshape(batch, rows, side, columns, side).sum((2, 4)).reshape(batch, -1)

    def mask(self, chosen: Bool[Array, "batch units"]) -> Bool[Array, "batch height width channels"]:
        """Which values belong to the chosen units; the axis of channels has length 1 where all channels do."""
        batch, (height, width, channels) = len(chosen), self.shape
        if self.kind == "value":
            return chosen.reshape(batch, height, width, channels)
        if self.kind == "pixel":
            return chosen.reshape(batch, height, width, 1)
        grid = chosen.reshape(batch, math.ceil(height / self.side), math.ceil(width / self.side))
        return grid.repeat(self.side, 1).repeat(self.side, 2)[:, :height, :width, None]


def places_from_the_largest(scores: UnitScores) -> Int[Array, "batch units"]:
    """Each unit's place in the order of falling scores, from 0; equal ones in the order of the image."""
    order = jnp.argsort(scores, axis=-1, descending=True, stable=True)
    return jnp.argsort(order, axis=-1)
