"""Broken images as files: the exact numbers of each, and pictures on request."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from advx_jax.data.image_set import ImageSet, unit_images
from advx_jax.errors import UserError
from advx_jax.files import atomic_write
from advx_jax.messages import shown
from advx_jax.names import safe_class_name
from advx_jax.reports.pictures import difference_map, difference_scale, to_pixels, write_png

BROKEN_FOLDER = "broken"
PICTURES_FOLDER = "pictures"
_GAP = 2


class BrokenImages:
    """The broken images of one output folder.

    `broken/INDEX.npy` holds float32 values on the [0,1] scale: rounded to pixels, many would be
    classified correctly again.
    """

    def __init__(self, output: Path, data: ImageSet) -> None:
        self._output, self._data = output, data

    def keep(self, index: int, adversarial: Float[np.ndarray, "height width channels"]) -> None:
        """Write a broken image."""
        with atomic_write(self._path(index)) as temporary, temporary.open("wb") as stream:
            np.save(stream, adversarial)

    def holds(self, index: int) -> bool:
        """Whether there is such a broken image."""
        return self._path(index).is_file()

    def forget(self) -> None:
        """Remove what an earlier call with other settings left."""
        for folder, pattern in ((BROKEN_FOLDER, "[0-9]*.npy"), (PICTURES_FOLDER, "[0-9]*-as-*.png")):
            for path in (self._output / folder).glob(pattern):
                path.unlink()

    def write_pictures(self, records: Sequence[dict[str, Any]]) -> int:
        """Write `pictures/INDEX-CLASS-as-PREDICTED.png`: the image, the broken one, and what changed.

        Args:
            records: of the images, in their order.

        Returns:
            How many there are.

        Raises:
            UserError: a broken image's file is missing or damaged.
        """
        names = [safe_class_name(name) for name in self._data.class_names]
        broken = [index for index, record in enumerate(records) if "broken_by" in record]
        for index in broken:
            label, predicted = names[self._data.labels[index]], names[records[index]["predicted"]]
            path = self._output / PICTURES_FOLDER / f"{index}-{label}-as-{predicted}.png"
            if not path.exists():
                write_png(path, self._strip(index))
        return len(broken)

    def _strip(self, index: int) -> np.ndarray:
        image, adversarial = unit_images(self._data.images[index]), self.load(index)
        change = adversarial - image
        panels = [self._data.images[index], to_pixels(adversarial)]
        panels.append(difference_map(change, difference_scale(change[None])))
        if image.shape[-1] == 4:
            panels[2] = np.pad(panels[2], ((0, 0), (0, 0), (0, 1)), constant_values=255)
        gap = np.full((image.shape[0], _GAP, image.shape[-1]), 255, np.uint8)
        return np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=1)

    def load(self, index: int) -> Float[np.ndarray, "height width channels"]:
        """Read a broken image.

        Raises:
            UserError: its file is missing or damaged.
        """
        path = self._path(index)
        try:
            # Mapped, so that a file can claim no more than it holds.
            adversarial = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError, OverflowError, MemoryError, SyntaxError) as error:
            raise UserError(f"cannot read the broken image {path}: {error}") from error
        shape = self._data.images[index].shape
        if adversarial.shape != shape or adversarial.dtype != np.float32 or not np.isfinite(adversarial).all():
            raise UserError(
                f"expected an image of shape {shape} in {path}, float32 and finite, "
                f"got shape {shown(str(adversarial.shape))}, {adversarial.dtype}"
            )
        return np.array(adversarial)

    def _path(self, index: int) -> Path:
        return self._output / BROKEN_FOLDER / f"{index}.npy"
