"""Occlusion (Zeiler, Fergus 2013, arXiv 1311.2901): what the logit loses when a window of the image is covered."""

import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Int

from advx_jax.analysis.attribution.base import Attribution, Attributions, target_logits
from advx_jax.attacks.arrays import Images, Keys, Labels
from advx_jax.attacks.base import Model, Number
from advx_jax.attacks.norms import per_example
from advx_jax.errors import UserError

Extent = int | tuple[int, int]
"""Of rows and columns, or of both."""


@struct.dataclass(kw_only=True)
class Occlusion(Attribution):
    """a_p = mean over the windows w that cover p of z_t(x) - z_t(x with w filled), for each position p.

    The window covers all channels. At the far borders it is cut off, as Captum's is. Positions are tried one after the
    other: memory does not depend on how many there are.

    Attributes:
        window: height and width of what is covered.
        stride: by how many rows and columns the window moves; at most the window, so that every position is covered.
        fill: what the covered values become.
    """

    window: Extent = struct.field(pytree_node=False, default=8)
    stride: Extent = struct.field(pytree_node=False, default=4)
    fill: Number = 0.0

    def __post_init__(self) -> None:
        """Write extents as pairs."""
        super().__post_init__()
        for name in ("window", "stride"):
            object.__setattr__(self, name, _pair(name, getattr(self, name)))

    @property
    def is_spatial(self) -> bool:
        """A window covers all channels."""
        return True

    def passes(self, image_shape: tuple[int, ...]) -> int:
        """A pass for each place of the window, and one for the whole image."""
        return 1 + len(self._corners(image_shape))

    def check(self, image_shape: tuple[int, ...]) -> None:
        """Refuse windows that are larger than the image, or that leave gaps."""
        super().check(image_shape)
        for what, size, window, stride in zip(("height", "width"), image_shape, *self._extents, strict=False):
            if window > size:
                raise UserError(f"expected a window of at most the image's {what} {size}, got {window}")
            if stride > window:
                raise UserError(f"expected a stride of at most the window's {what} {window}, got {stride}")

    def attribute(self, model: Model, images: Images, targets: Labels, keys: Keys) -> Attributions:
        """See `Attribution.attribute`."""
        del keys
        _, height, width, _ = images.shape
        (rows, columns), _ = self._extents
        whole = target_logits(model, images, targets)

        def covered(corner: Int[Array, "2"]) -> Bool[Array, "height width"]:
            down, right = jnp.arange(height) - corner[0], jnp.arange(width) - corner[1]
            return ((down >= 0) & (down < rows))[:, None] & ((right >= 0) & (right < columns))

        def step(total: tuple[Array, Array], corner: Array) -> tuple[tuple[Array, Array], None]:
            losses, counts = total
            mask = covered(corner)
            filled = jnp.where(mask[None, :, :, None], jnp.asarray(self.fill, images.dtype), images)
            loss = whole - target_logits(model, filled, targets)
            return (losses + per_example(loss, losses) * mask, counts + mask), None

        none = jnp.zeros((len(images), height, width), whole.dtype), jnp.zeros((height, width), whole.dtype)
        (losses, counts), _ = lax.scan(step, none, jnp.asarray(self._corners(images.shape[1:]), jnp.int32))
        return losses / counts

    @property
    def _extents(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Window and stride."""
        return _pair("window", self.window), _pair("stride", self.stride)

    def _corners(self, image_shape: tuple[int, ...]) -> list[tuple[int, int]]:
        """Row and column at which each window begins."""
        rows, columns = (
            range(0, -(-(size - window) // stride) * stride + 1, stride)
            for size, window, stride in zip(image_shape, *self._extents, strict=False)
        )
        return [(row, column) for row in rows for column in columns]


def _pair(name: str, extent: Extent) -> tuple[int, int]:
    sizes = tuple(extent) if isinstance(extent, tuple | list) else (extent, extent)
    if len(sizes) != 2 or not all(type(size) is int and size > 0 for size in sizes):
        raise UserError(f"expected {name} as a positive number of pixels or (rows, columns), got {extent!r}")
    return sizes[0], sizes[1]
