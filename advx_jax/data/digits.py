"""Small grey images of digits, drawn here: something to train on within a minute, without a download.

They stand for a person's own images: `--data=advx_jax.data.digits:digits` finds them as it finds anybody's code.
"""

import functools

import numpy as np
from PIL import Image, ImageFilter

from advx_jax.data.image_set import ImageSet, Split

_SIDE = 28
_N_IMAGES: dict[Split, int] = {"train": 2000, "test": 500}
_SEEDS: dict[Split, int] = {"train": 0, "test": 1}
# Each five dots wide and seven high.
_SHAPES = (
    " ### #   ##  ### # ###  ##   # ### ",
    "  #   ##    #    #    #    #   ### ",
    " ### #   #    #   #   #   #   #####",
    " ### #   #    #  ##     ##   # ### ",
    "   #   ##  # # #  # #####   #    # ",
    "######    ####     #    ##   # ### ",
    "  ##  #   #    #### #   ##   # ### ",
    "#####    #   #   #   #    #    #   ",
    " ### #   ##   # ### #   ##   # ### ",
    " ### #   ##   # ####    #   #  ##  ",
)
_DOT = 16
_SIZES, _LARGEST_TURN, _SLANT, _LARGEST_SHIFT = (0.75, 1.05), 0.25, 0.2, 3.0
_BLURS, _LEVELS, _NOISE = (0.3, 1.0), (0.5, 1.0), 12.0


def digits(split: Split) -> ImageSet:
    """Draw the images of a split, always the same: white digits on black, of several sizes, turned, blurred, noisy."""
    return _digits(split)


@functools.cache
def _digits(split: Split) -> ImageSet:
    rng = np.random.default_rng(_SEEDS[split])
    labels = rng.permutation(np.arange(_N_IMAGES[split], dtype=np.int64) % len(_SHAPES))
    pixels = np.stack([_drawn(rng, int(label)) for label in labels])[..., None]
    pixels.flags.writeable = False
    return ImageSet(pixels, labels, tuple(map(str, range(len(_SHAPES)))), "digits drawn by advx_jax")


def _drawn(rng: np.random.Generator, digit: int) -> np.ndarray:
    dots = np.array(
        [[255 * (dot == "#") for dot in _SHAPES[digit][row : row + 5]] for row in range(0, 35, 5)], np.uint8
    )
    large = Image.fromarray(np.kron(dots, np.ones((_DOT, _DOT), np.uint8)))
    # From a pixel of the image to the point of the shape that lies there.
    size = rng.uniform(*_SIZES) * _SIDE * 0.75 / large.height
    turn, slant = rng.uniform(-_LARGEST_TURN, _LARGEST_TURN), rng.uniform(-_SLANT, _SLANT)
    cos, sin = np.cos(turn) / size, np.sin(turn) / size
    matrix = np.array([[cos + slant * sin, slant * cos - sin], [sin, cos]])
    middle = _SIDE / 2 + rng.uniform(-_LARGEST_SHIFT, _LARGEST_SHIFT, 2)
    offset = np.array(large.size) / 2 - matrix @ middle
    coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
    drawn = large.transform((_SIDE, _SIDE), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    blurred = np.asarray(drawn.filter(ImageFilter.GaussianBlur(rng.uniform(*_BLURS))), np.float64)
    noisy = blurred * rng.uniform(*_LEVELS) + rng.normal(0, _NOISE, blurred.shape)
    return np.round(noisy).clip(0, 255).astype(np.uint8)
