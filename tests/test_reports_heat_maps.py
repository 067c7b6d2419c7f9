"""Attributions as pictures."""

import numpy as np

from advx_jax.reports.heat_maps import AGAINST, FOR, by_position, colour_ramp, heat_map, heat_scale, scale_text


def pixels(colour):
    return np.floor(255 * np.array(colour) + 0.5)


def test_for_is_orange_against_is_blue_and_nothing_is_the_image_in_grey():
    image = np.random.default_rng(0).uniform(size=(2, 3, 3)).astype(np.float32)
    values = np.array([[2, 1, 0], [-1, -0.5, np.nan]], np.float32)
    found = heat_map(image, values, 1.0).astype(float)
    for place in ((0, 0), (0, 1)):
        np.testing.assert_array_equal(found[place], pixels(FOR))
    np.testing.assert_array_equal(found[1, 0], pixels(AGAINST))
    grey = heat_map(image, values, 0.0).astype(float)
    assert (grey == grey[..., :1]).all()
    np.testing.assert_array_equal(found[0, 2], grey[0, 2])
    np.testing.assert_array_equal(found[1, 2], grey[1, 2])
    np.testing.assert_allclose(found[1, 1], (pixels(AGAINST) + grey[1, 1]) / 2, atol=1)


def test_a_grid_of_fewer_positions_covers_the_image():
    found = heat_map(np.zeros((4, 6, 1), np.float32), np.array([[1, 0, -1]], np.float32), 1.0)
    assert found.shape == (4, 6, 3)
    np.testing.assert_array_equal(found[:, 1], np.tile(pixels(FOR), (4, 1)))
    np.testing.assert_array_equal(found[:, 5], np.tile(pixels(AGAINST), (4, 1)))


def test_brightness_of_the_image_is_kept_whatever_its_channels():
    for shape, last in (((1, 2, 1), ()), ((1, 2, 3), ()), ((1, 2, 4), (1.0,))):
        image = np.zeros(shape, np.float32)
        image[0, 1] = 1
        if last:
            image[0, 0, 3] = 0  # all transparent: as the white that it lies on
        dark, bright = heat_map(image, np.zeros((1, 2), np.float32), 1.0)[0, :, 0]
        assert (dark == bright) if last else (dark < bright)


def test_one_scale_for_all_classes_and_channels_are_added_up():
    values = np.stack([np.full((10, 10, 3), 0.1), np.full((10, 10, 3), -0.5)]).astype(np.float32)
    maps = by_position(values)
    assert maps.shape == (2, 10, 10)
    np.testing.assert_allclose(heat_scale(maps), 1.5)
    assert by_position(maps) is maps
    assert scale_text(0.01234) == "±0.012"
    assert scale_text(0.0) == "0 everywhere"
    assert colour_ramp().startswith("rgb(15, 82, 255), ")
