import numpy as np
import pytest
from PIL import Image

from advx_jax.analysis.robustness_area import RobustnessCurve, robustness_curve
from advx_jax.errors import UserError
from advx_jax.reports.ara_curve import area_in_words, write_ara_curve

BLUE, ORANGE = (0, 114, 178), (213, 94, 0)
# Classes, and values of an image.
CIFAR10 = (10, 3072)


def pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def count(picture, colour):
    return int((picture == colour).all(-1).sum())


def test_both_curves_are_drawn_in_one_picture(tmp_path, golden):
    distances = golden("ara_all.npz")
    curves = {kind: robustness_curve(distances[kind].astype(np.float64), 10) for kind in ("attack", "btr")}
    path = tmp_path / "new" / "ara.png"
    write_ara_curve(path, curves, "resnet44-all", *CIFAR10)
    picture = pixels(path)
    assert min(picture.shape[:2]) > 500
    # A line across the picture, not just a mark in the legend.
    assert count(picture, BLUE) > 1000
    assert count(picture, ORANGE) > 1000
    assert list(path.parent.iterdir()) == [path]


def test_a_kind_that_is_not_there_is_not_drawn(tmp_path):
    write_ara_curve(tmp_path / "ara.png", {"attack": robustness_curve(np.linspace(0, 0.1, 50), 10)}, "one", *CIFAR10)
    picture = pixels(tmp_path / "ara.png")
    assert count(picture, BLUE) > 1000
    assert count(picture, ORANGE) == 0


def test_a_higher_curve_has_more_shade_under_it(tmp_path):
    def shade(distances):
        write_ara_curve(tmp_path / "ara.png", {"attack": robustness_curve(distances, 10)}, "t", *CIFAR10)
        picture = pixels(tmp_path / "ara.png").astype(int)
        return int(((picture[..., 2] - picture[..., 0] > 20) & (picture[..., 0] > 200)).sum())

    # The same axis, since the largest distances are the same.
    assert shade(np.r_[np.full(50, 0.08), np.full(50, 0.1)]) > 1.2 * shade(np.r_[np.full(50, 0.04), np.full(50, 0.1)])


@pytest.mark.parametrize(
    "distances",
    [np.zeros(5), np.zeros(0), np.array([0.3]), np.array([1e-9, 1e-9]), np.array([0, 0, 0, 500.0])],
    ids=["all misclassified", "none measured", "one", "tiny", "far"],
)
def test_odd_distances_are_drawn_without_a_warning(tmp_path, distances):
    write_ara_curve(tmp_path / "ara.png", {"attack": robustness_curve(distances, 10)}, "odd", *CIFAR10)
    assert pixels(tmp_path / "ara.png").size


@pytest.mark.parametrize("title", ["$x_{", "50 % $\\frac$", "日本 😀", "<b>&", "", "x" * 300])
def test_any_title_will_do(tmp_path, title):
    write_ara_curve(tmp_path / "ara.png", {"other kind": robustness_curve(np.linspace(0, 1, 9), 4)}, title, 4, 100)
    assert pixels(tmp_path / "ara.png").size


@pytest.mark.parametrize(
    "curves",
    [
        {},
        {"attack": RobustnessCurve(np.zeros(3), np.zeros(2), 0.0, 0.0, 0, 0)},
        {"attack": RobustnessCurve(np.zeros(0), np.zeros(0), 0.0, 0.0, 0, 0)},
    ],
    ids=["none", "unequal", "empty"],
)
def test_curves_that_are_none_are_refused(tmp_path, curves):
    with pytest.raises(UserError, match="expected"):
        write_ara_curve(tmp_path / "ara.png", curves, "t", *CIFAR10)
    assert list(tmp_path.iterdir()) == []


def test_a_curve_that_was_never_crossed_is_drawn_to_the_end_of_the_axis(tmp_path):
    """At its height, beside one that falls; its area is given as a bound."""
    never = robustness_curve(np.array([0, np.inf, np.inf, np.inf]), 10)
    curves = {"attack": never, "btr": robustness_curve(np.full(4, 0.1), 10)}
    assert [area_in_words(curve) for curve in curves.values()] == ["≥ 0.0000", "0.0899"]
    write_ara_curve(tmp_path / "ara.png", curves, "t", *CIFAR10)
    assert count(pixels(tmp_path / "ara.png"), BLUE) > 1000
    write_ara_curve(tmp_path / "ara.png", {"attack": curves["attack"]}, "t", *CIFAR10)
    assert count(pixels(tmp_path / "ara.png"), BLUE) > 1000
