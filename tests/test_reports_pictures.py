import numpy as np
import pytest
from PIL import Image

from advx_jax.errors import UserError
from advx_jax.reports.pictures import difference_map, difference_scale, png_bytes, to_pixels, write_png


def grey(values) -> np.ndarray:
    return np.repeat(np.asarray(values, np.float32)[..., None], 3, -1)


def test_every_pixel_value_survives_the_way_to_the_unit_scale_and_back():
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1)
    np.testing.assert_array_equal(to_pixels(pixels.astype(np.float32) / np.float32(255)), pixels)


def test_rounding_goes_to_the_nearest_and_clips():
    values = np.array([-3, -0.001, 0, 0.49 / 255, 0.51 / 255, 1.49 / 255, 254.49 / 255, 254.51 / 255, 1, 1.001, 9])
    expected = [0, 0, 0, 0, 1, 1, 254, 255, 255, 255, 255]
    np.testing.assert_array_equal(to_pixels(grey(values))[..., 0], expected)


def test_what_is_not_finite_is_shown_without_a_warning():
    np.testing.assert_array_equal(to_pixels(grey([np.nan, np.inf, -np.inf]))[..., 1], [0, 255, 0])


def test_shape_and_type():
    pixels = to_pixels(np.zeros((2, 5, 4, 7, 3), np.float64))
    assert pixels.shape == (2, 5, 4, 7, 3)
    assert pixels.dtype == np.uint8


def test_difference_map_is_grey_where_nothing_changed_and_signed_elsewhere():
    perturbation = grey([[0, 0.1, -0.1, 0.05, -0.05, 0.7, -0.7]])
    np.testing.assert_array_equal(difference_map(perturbation, 0.1)[0, :, 0], [128, 255, 0, 191, 64, 255, 0])


def test_difference_maps_of_one_scale_keep_the_sizes_of_changes_comparable():
    small, large = grey([[0.02]]), grey([[0.08]])
    scale = difference_scale(np.stack([small, large]))
    shown = [int(difference_map(change, scale)[0, 0, 0]) - 128 for change in (small, large)]
    assert 3 * shown[0] < shown[1] < 5 * shown[0]


def test_scale_is_not_set_by_a_few_extreme_pixels_nor_by_nan():
    perturbations = np.full((10, 32, 32, 3), -0.05, np.float32)
    perturbations[0, 0, :10] = 5
    perturbations[1, 0, 0] = np.nan
    perturbations[1, 0, 1] = np.inf
    assert difference_scale(perturbations) == pytest.approx(0.05)


def test_no_change_at_all_is_grey():
    nothing = np.zeros((4, 4, 3), np.float32)
    scale = difference_scale(nothing[None])
    assert scale == 0
    assert (difference_map(nothing, scale) == 128).all()


@pytest.mark.parametrize("scale", [-0.1, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(UserError, match="expected a scale"):
        difference_map(np.zeros((2, 2, 3), np.float32), scale)


def test_png_is_read_back_pixel_by_pixel(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    path = tmp_path / "new" / "picture.png"
    write_png(path, pixels)
    with Image.open(path) as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        np.testing.assert_array_equal(np.asarray(picture), pixels)
    assert path.read_bytes() == png_bytes(pixels)
    assert list(path.parent.iterdir()) == [path]
