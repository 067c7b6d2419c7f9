"""What must hold of every metric: a number for each example, whatever stands beside it in the batch."""

import dataclasses
import json

import explained
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explained import SHAPE, K, N
from parametrised import some

from advx_jax.analysis.attribution import Gradient
from advx_jax.analysis.faithfulness import METRICS, Deletion, Infidelity, Metric, find_metric
from advx_jax.analysis.faithfulness.settings import check_settings
from advx_jax.attacks import example_keys
from advx_jax.errors import UserError

SMALL = {
    "steps": 5,
    "patch": 2,
    "n_subsets": 6,
    "n_samples": 3,
    "fractions": (0.2, 0.6),
}
CASE = explained.linear_case()
KEYS = example_keys(jax.random.key(1), jnp.arange(N))
DRAWING = {"road", "road_least_first", "faithfulness_correlation", "infidelity", "infidelity_scaled"}
ALIKE = {"average_sensitivity", "infidelity_scaled", "road_least_first"}
each_metric = pytest.mark.parametrize("name", METRICS)


def network(numbers, images):
    first, second = numbers
    return jnp.tanh((images - 0.5).reshape(len(images), -1) @ first) @ second


MODEL = jax.tree_util.Partial(
    network,
    (
        0.3 * jax.random.normal(jax.random.key(3), (int(np.prod(SHAPE)), 8)),
        jax.random.normal(jax.random.key(4), (8, K)),
    ),
)


def small(name):
    metric = METRICS[name]
    known = metric.settings()
    return metric.with_settings(**{setting: value for setting, value in SMALL.items() if setting in known})


def explained_by(metric, slopes, method=explained.noisy_gradient):
    return method if metric.takes_method else slopes


def spoilt(value):
    """A method that gives a value that is not finite for bright images."""

    def method(model, images, targets, keys):
        attributions = explained.noisy_gradient(model, images, targets, keys)
        bright = images.mean((1, 2, 3)) > 0.8
        return attributions.at[:, 0, 0, 0].set(jnp.where(bright, value, attributions[:, 0, 0, 0]))

    return method


# Three are another sum over what others compute.
@some("name", METRICS, by_default=[name for name in METRICS if name not in ALIKE])
def test_a_number_for_each_example_that_depends_on_no_other(name):
    metric = small(name)
    whole = np.asarray(metric(MODEL, CASE.images, CASE.targets, explained_by(metric, CASE.slopes), KEYS))
    assert whole.shape == (N,)
    assert np.isfinite(whole).all()
    some = np.array([2, 0])
    attributions = explained_by(metric, CASE.slopes[some])
    alone = metric(MODEL, CASE.images[some], CASE.targets[some], attributions, KEYS[some])
    np.testing.assert_allclose(alone, whole[some], rtol=1e-4, atol=1e-6)


@each_metric
def test_attributions_that_are_no_numbers_have_no_score(name):
    metric = small(name)
    # One image that a method can tell from all others, changed a little or not.
    images = jnp.asarray(CASE.images).at[1].set(0.9)
    for value in (np.nan, np.inf):
        slopes = np.array(CASE.slopes)
        slopes[1, 0, 0, 0] = value
        found = metric(MODEL, images, CASE.targets, explained_by(metric, slopes, spoilt(value)), KEYS)
        np.testing.assert_array_equal(np.isnan(found), np.arange(N) == 1)


@each_metric
def test_the_same_key_gives_the_same(name):
    metric = small(name)
    arguments = MODEL, CASE.images, CASE.targets, explained_by(metric, CASE.slopes)
    first, again, other = (np.asarray(metric(*arguments, jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, np.asarray(metric(*arguments)))
    draws = metric.takes_method or (name in DRAWING and not name.startswith("road"))
    if not name.startswith("road"):
        # Whether a class is still the largest need not depend on so little noise.
        assert np.array_equal(first, other) != draws


@each_metric
def test_a_metric_says_what_it_is_in_json(name):
    metric = METRICS[name]
    assert metric.name == name
    assert isinstance(metric.higher_is_better, bool)
    settings = json.loads(json.dumps(metric.settings(), allow_nan=False))
    assert settings["name"] == name
    cost = metric.cost(MODEL, SHAPE)
    assert cost.passes >= 0
    assert (cost.attributions > 0) == metric.takes_method
    assert type(metric).__doc__ != Metric.__doc__


@each_metric
def test_the_cost_is_what_is_spent(name):
    metric, counts = small(name), {"passes": 0, "attributions": 0}

    def count(what):
        def add(rows):
            counts[what] += len(rows)

        return add

    def counted_model(numbers, images):
        jax.debug.callback(count("passes"), images)
        return network(numbers, images)

    def counted_method(model, images, targets, key):
        jax.debug.callback(count("attributions"), images)
        return images

    model = jax.tree_util.Partial(counted_model, *MODEL.args)
    attributions = explained_by(metric, CASE.slopes, counted_method)
    jax.block_until_ready(metric(model, CASE.images, CASE.targets, attributions, KEYS))
    jax.effects_barrier()
    assert counts == {what: N * cost for what, cost in metric.cost(MODEL, SHAPE)._asdict().items()}


@pytest.mark.parametrize("name", ["deletion", "road", "infidelity", "complexity", "completeness"])
def test_spatial_attributions_are_taken_too(name):
    metric = small(name)
    assert np.isfinite(metric(MODEL, CASE.images, CASE.targets, CASE.slopes.sum(-1), KEYS)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"attributions": CASE.slopes[:3]},
            r"expected attributions of shape \(4, 6, 5, 3\) or \(4, 6, 5\), got \(3,",
        ),
        ({"attributions": CASE.slopes[..., :1]}, r"expected attributions of shape .*, got \(4, 6, 5, 1\)"),
        ({"attributions": (CASE.slopes > 0).astype(int)}, "expected attributions as floating-point numbers, got int64"),
        ({"attributions": explained.gradient}, "expected attributions as an array, got function: call the method"),
        ({"targets": CASE.targets[:2]}, r"expected one target for each of 4 images, got targets of shape \(2,\)"),
        ({"targets": CASE.targets + K}, "expected targets from 0 to 2, got"),
        ({"images": CASE.images * 255}, "expected images in .0,1., got"),
        ({"images": CASE.images.reshape(N, -1)}, "expected images of shape|cannot"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(change, message):
    arguments = {"images": CASE.images, "targets": CASE.targets, "attributions": CASE.slopes} | change
    with pytest.raises(UserError, match=message) as caught:
        Deletion()(MODEL, arguments["images"], arguments["targets"], arguments["attributions"])
    assert "\n" not in str(caught.value)


def test_a_method_is_called_and_its_answer_looked_at():
    metric = small("max_sensitivity")
    with pytest.raises(UserError, match=r"^expected a method\(model, images, targets, key\) .* got ndarray$"):
        metric(MODEL, CASE.images, CASE.targets, CASE.slopes)
    with pytest.raises(UserError, match=r"^expected attributions of shape \(4, 6, 5, 3\) or .*, got \(4, 3\)$"):
        metric(MODEL, CASE.images, CASE.targets, lambda model, images, targets, key: model(images))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("deletoin", {}, r"expected a metric \(deletion, .*\), got 'deletoin'; did you mean deletion\?"),
        ("deletion", {"size": 3}, r"expected a setting of the metric deletion \(name, .*\), got size"),
        ("deletion", {"steps": 0}, "expected a whole number of at least 1 as steps, got 0"),
        ("road", {"fractions": (0.5, 1.0)}, "expected a number above 0 and below 1 in fractions, got 1.0"),
        ("road", {"fractions": ()}, r"expected a tuple of numbers between 0 and 1 as fractions, got \(\)"),
        ("road", {"noise": -1.0}, "expected a number of at least 0 as noise, got -1.0"),
        ("max-sensitivity", {"radius": 0.0}, "expected a number above 0 as radius, got 0.0"),
        ("infidelity", {"contributions": True}, "expected perturbation='square' with contributions=True"),
    ],
)
def test_settings_that_are_none_are_refused(name, settings, message):
    with pytest.raises(UserError, match=f"^{message}"):
        find_metric(name, **settings)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("baseline", "white", "expected black or mean or blurred as baseline, got 'white'"),
        ("unit", "row", "expected value or pixel or patch as unit, got 'row'"),
        ("similarity", "ssim", "expected spearman or pearson or cosine as similarity, got 'ssim'"),
        ("output", "loss", "expected logit or probability as output, got 'loss'"),
        ("steps", True, "expected a whole number of at least 1 as steps, got True"),
        ("sigma", "0.2", "expected a number above 0 as sigma, got '0.2'"),
    ],
)
def test_settings_of_another_type_are_refused(name, value, message):
    settings = dataclasses.make_dataclass("Settings", [name])(value)
    with pytest.raises(UserError, match=f"^{message}$"):
        check_settings(settings)


def test_a_square_has_to_fit_into_the_image():
    with pytest.raises(UserError, match=r"^expected a side of at most 5 pixels, got 6$"):
        Infidelity(perturbation="square", side=6)(MODEL, CASE.images, CASE.targets, CASE.slopes)


def test_metrics_are_found_in_other_spellings():
    assert find_metric("Pixel-Flipping", steps=3) == METRICS["pixel_flipping"].with_settings(steps=3)


def test_methods_that_are_pytrees_or_not_hashable_work():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Scaled:
        factor: float

        def __call__(self, model, images, targets, key):
            return self.factor * explained.gradient(model, images, targets)

    class Unhashable:
        __hash__ = None

        def __call__(self, model, images, targets, key):
            return explained.gradient(model, images, targets)

    metric = small("max_sensitivity")
    results = [
        metric(MODEL, CASE.images, CASE.targets, method) for method in (explained.gradient, Scaled(2.0), Unhashable())
    ]
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5)
    np.testing.assert_array_equal(results[2], results[0])


@pytest.mark.parametrize("name", ["road", "road_least_first"])
def test_logits_that_are_no_numbers_are_no_hit(name):
    """NaN has no largest logit, though argmax names the first."""

    def nan_if_bright(images):
        return jnp.where(images.mean((1, 2, 3))[:, None] > 0.7, jnp.nan, jnp.arange(K, 0.0, -1))

    images = jnp.full((2, *SHAPE), 0.5).at[1].set(0.9)
    found = small(name)(nan_if_bright, images, np.zeros(2, np.int32), jnp.ones(images.shape), KEYS[:2])
    np.testing.assert_array_equal(found, [1, 0])


@pytest.mark.parametrize("name", ["max_sensitivity", "average_sensitivity"])
def test_a_change_from_an_attribution_of_zero_has_no_relative_size(name):
    def bowl(images):
        """Flat where the first image is, and nowhere else."""
        return jnp.square(images[:, 0, 0, :1] - 0.5) * jnp.arange(1, K + 1)

    images = jnp.full((2, *SHAPE), 0.5).at[1].set(0.9)
    found = small(name)(bowl, images, np.array([1, 2]), Gradient(), KEYS[:2])
    np.testing.assert_array_equal(np.isnan(found), [True, False])
    assert np.isfinite(found[1])
