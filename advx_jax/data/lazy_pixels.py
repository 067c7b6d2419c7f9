"""Pixels of many images that are read only when they are asked for."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8


@dataclasses.dataclass(frozen=True, eq=False)
class LazyPixels:
    """Stands where an array of pixels could: it has a length, a shape, and is asked for images by their places.

    Attributes:
        shape: number of images, height, width, channels.
        read: reads the images at some places.
        identity: something that is equal for equal images only, found without reading all of them.
    """

    shape: tuple[int, int, int, int]
    read: Callable[[Int64[np.ndarray, " some"]], UInt8[np.ndarray, "some height width channels"]]
    identity: Callable[[], bytes]

    @property
    def dtype(self) -> np.dtype:
        """As stored."""
        return np.dtype(np.uint8)

    @property
    def ndim(self) -> int:
        """As an array of images has."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> UInt8[np.ndarray, "..."]:
        """Read one image (by a number) or several (by a slice or by places), as an array gives them."""
        places = np.arange(len(self))[key]
        pixels = np.asarray(self.read(np.atleast_1d(places)))
        return pixels[0] if places.ndim == 0 else pixels

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of them, in memory."""
        return np.asarray(self[:], dtype)
