"""Attributions as pictures: over the image in grey, what speaks for a class is orange, and what against it blue."""

import math

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from advx_jax.reports.pictures import difference_scale, to_pixels

# Told apart by people who see no red, no green or no blue, and on light and dark pages.
FOR, AGAINST = (1.0, 0.42, 0.0), (0.06, 0.32, 1.0)
# From black to white of the image, so narrow that colours are seen on either.
_DARKEST, _BRIGHTEST = 0.16, 0.92
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
_RGB, _RGBA = 3, 4


def by_position(attributions: Float[np.ndarray, "targets ..."]) -> Float[np.ndarray, "targets height width"]:
    """A value for each position: those of its channels added up."""
    return attributions.sum(-1) if attributions.ndim == 4 else attributions


def heat_scale(maps: Float[np.ndarray, "targets height width"]) -> float:
    """The value that is shown in full colour, one for all classes of an image: 99 % of all stay below it.

    It is that of one method. Methods have units of their own, so that a scale for several would mean nothing.
    """
    return difference_scale(maps[..., None])


def heat_map(
    image: Float[np.ndarray, "height width channels"], values: Float[np.ndarray, "rows columns"], scale: float
) -> UInt8[np.ndarray, "height width 3"]:
    """A picture of an attribution over its image: the stronger the colour, the larger the value.

    Args:
        image: on the [0,1] scale.
        values: of the image's positions, or of a grid of fewer.
        scale: the value in full colour, which larger ones have too; 0 shows none.
    """
    size = image.shape[1::-1]
    values = np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.NEAREST))
    # What is no number has no colour; the record says that there is such.
    share = np.nan_to_num(np.clip(values / scale, -1, 1)) if scale else np.zeros(values.shape)
    colours = np.where((share > 0)[..., None], np.array(FOR), np.array(AGAINST))
    strength = np.abs(share)[..., None]
    return to_pixels(((1 - strength) * _faint(image)[..., None] + strength * colours).astype(np.float32))


def colour_ramp() -> str:
    """The colours from against to for, over mid-grey, as CSS has them."""
    middle = (_DARKEST + _BRIGHTEST) / 2
    steps = [tuple(255 * part for part in colour) for colour in (AGAINST, (middle,) * 3, FOR)]
    return ", ".join(f"rgb({', '.join(f'{part:.0f}' for part in step)})" for step in steps)


def scale_text(scale: float) -> str:
    """The value in full colour, for people."""
    return f"±{scale:.2g}" if scale and math.isfinite(scale) else "0 everywhere"


def _faint(image: Float[np.ndarray, "height width channels"]) -> Float[np.ndarray, "height width"]:
    """In grey, without the darkest and the brightest."""
    image = np.nan_to_num(np.clip(image, 0, 1))
    if image.shape[-1] == _RGBA:
        # What is transparent lies on white.
        image = image[..., :_RGB] * image[..., _RGB:] + 1 - image[..., _RGB:]
    grey = image @ _LUMINANCE if image.shape[-1] == _RGB else image[..., 0]
    return _DARKEST + (_BRIGHTEST - _DARKEST) * grey
