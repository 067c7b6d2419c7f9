import hashlib

import numpy as np

from advx_jax.data.image_set import CIFAR10_CLASSES, ImageSet, unit_images

# docs/method.md, Images and units: so many of the 256 values come out otherwise if one multiplies by 1/255.
VALUES_WHERE_A_PRODUCT_DIFFERS = 126


def _set(images, labels) -> ImageSet:
    return ImageSet(images, labels, CIFAR10_CLASSES, "a test")


def test_unit_images_is_a_correctly_rounded_division():
    values = np.arange(256, dtype=np.uint8)
    unit = unit_images(values)
    assert unit.dtype == np.float32
    # The quotient in double precision, rounded once.
    np.testing.assert_array_equal(unit, np.array([v / 255 for v in range(256)], np.float32))
    product = values.astype(np.float32) * (np.float32(1) / np.float32(255))
    assert (unit != product).sum() == VALUES_WHERE_A_PRODUCT_DIFFERS


def test_unit_images_equal_the_golden_ones_where_those_are_given(golden):
    stored = golden("images_test_first256.npz")["images_u8"]
    unit = unit_images(stored)
    assert unit.shape == stored.shape
    assert unit.min() == 0
    assert unit.max() == 1
    np.testing.assert_array_equal(np.round(unit.astype(np.float64) * 255), stored)


def test_fingerprint_covers_pixels_labels_and_order():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (3, 32, 32, 3), np.uint8), np.array([1, 2, 3])
    reference = _set(images, labels).fingerprint
    assert reference == hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()

    pixel = images.copy()
    pixel[2, 31, 31, 2] ^= 1
    assert _set(pixel, labels).fingerprint != reference
    assert _set(images, np.array([1, 2, 4])).fingerprint != reference
    assert _set(images[::-1], labels[::-1]).fingerprint != reference


def test_fingerprint_does_not_depend_on_the_memory_layout():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), np.uint8)
    view = images.transpose(0, 2, 3, 1)
    labels = np.array([0, 9])
    assert _set(view, labels).fingerprint == _set(np.ascontiguousarray(view), labels).fingerprint


def test_length_is_the_number_of_images():
    assert len(_set(np.zeros((5, 32, 32, 3), np.uint8), np.zeros(5, np.int64))) == 5
