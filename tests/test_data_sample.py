import numpy as np
import pytest

from advx_jax.data.image_set import CIFAR10_CLASSES
from advx_jax.data.sample import load_sample
from advx_jax.data.sources import load_images


def test_sample_is_the_first_256_test_images(golden):
    expected = golden("images_test_first256.npz")
    sample = load_sample()
    np.testing.assert_array_equal(sample.images, expected["images_u8"])
    np.testing.assert_array_equal(sample.labels, expected["labels"])


def test_sample_has_the_form_of_every_image_set():
    sample = load_sample()
    assert sample.images.shape == (256, 32, 32, 3)
    assert sample.images.dtype == np.uint8
    assert sample.labels.dtype == np.int64
    assert sample.class_names == CIFAR10_CLASSES
    # The first test image is a cat; known to everybody who has looked at CIFAR-10.
    assert sample.class_names[sample.labels[0]] == "cat"
    assert "sample" in sample.source


def test_sample_begins_the_full_test_set():
    full = load_images(None, "test")
    if len(full) == 256:
        pytest.skip("needs the full CIFAR-10: set $CIFAR10_PATH or run `python -m advx_jax.data.cifar10`")
    np.testing.assert_array_equal(load_sample().images, full.images[:256])
    np.testing.assert_array_equal(load_sample().labels, full.labels[:256])
