"""Flips and crops against numpy, exact on every pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advx_jax.data.augmentation import augment, unit_scale
from advx_jax.data.image_set import unit_images


def expected(images, flip, offsets, padding):
    """One image after the other: replicate edges, flip, crop (docs/method.md, Augmentation)."""
    height, width = images.shape[1:3]
    out = []
    for image, flipped, (row, column) in zip(images, flip, offsets, strict=True):
        large = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode="edge")
        if flipped:
            large = large[:, ::-1]
        out.append(large[row : row + height, column : column + width])
    return np.stack(out)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(("padding", "height", "width"), [(4, 32, 32), (1, 5, 7), (0, 4, 4)])
def test_augmented_images_equal_those_of_numpy(padding, height, width, jit):
    rng = np.random.default_rng(padding)
    # Every corner of the crop, flipped and not.
    corners = [(row, column) for row in range(2 * padding + 1) for column in range(2 * padding + 1)]
    offsets = np.array(corners * 2, np.int32)
    flip = np.arange(len(offsets)) >= len(corners)
    images = rng.integers(0, 256, (len(offsets), height, width, 3), np.uint8)
    function = jax.jit(augment, static_argnums=3) if jit else augment
    found = np.asarray(function(*map(jnp.asarray, (images, flip, offsets)), padding))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected(images, flip, offsets, padding))


def test_the_crop_in_the_middle_is_the_image_itself():
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    found = augment(jnp.asarray(images), jnp.array([False, True]), jnp.full((2, 2), 4), 4)
    np.testing.assert_array_equal(found[0], images[0])
    np.testing.assert_array_equal(found[1], images[1, :, ::-1])


def test_edges_are_replicated_and_not_filled_or_mirrored():
    image = np.arange(9, dtype=np.uint8).reshape(1, 3, 3, 1).repeat(3, axis=-1)
    # The upper right corner, two pixels outside: rows 0, 0, 0 and columns 2, 2, 2 of the image.
    found = augment(jnp.asarray(image), jnp.array([False]), jnp.array([[0, 4]]), 2)
    np.testing.assert_array_equal(found[0, :, :, 0], [[2, 2, 2]] * 3)


@pytest.mark.parametrize("jit", [False, True])
def test_unit_scale_divides_to_the_last_bit(jit):
    pixels = np.arange(256, dtype=np.uint8)
    found = np.asarray((jax.jit(unit_scale) if jit else unit_scale)(jnp.asarray(pixels)))
    quotients = np.array([np.float32(value) / np.float32(255) for value in range(256)], np.float32)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), quotients.view(np.uint32))
    np.testing.assert_array_equal(found.view(np.uint32), unit_images(pixels).view(np.uint32))
    # What a compiler makes of a division by a constant would be told apart.
    products = pixels.astype(np.float32) * (np.float32(1) / np.float32(255))
    assert (products != found).sum() == 126


def test_unit_scale_keeps_the_shape_of_images():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    np.testing.assert_array_equal(jax.jit(unit_scale)(images), images / np.float32(255))
