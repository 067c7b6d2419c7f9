"""Metrics against Quantus 0.6.0, from the same attributions and, where something is drawn, the same draws.

Where Quantus computes something else, it is left out, or compared where both agree:

- `Completeness` there says whether sums are equal to the last bit; ours is the size of the gap.
- `Infidelity` there replaces the blocks of a grid one after the other and keeps those that are replaced, so that its
  perturbations are a fixed growing set; the paper's expectation is over independent perturbations. Both agree where one
  block is the whole image.
- `MPRT` there draws new parameters as PyTorch initialises them, which nobody else can draw; its similarity is compared.
- `RandomLogit` there takes SSIM unless told otherwise; here it is told.
- `ROAD` there takes images of one channel only: with more its indices run over all values of a picture of pixels.
- `PixelFlipping` there gives the curve without its first point, and an area that is not divided by its length; the
  curves are compared.
- Their "black" is the darkest value of an image; baselines are told as 0.
- There is no deletion or insertion there; its pixel flipping has the curve of a deletion, with probabilities.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advx_jax.analysis.faithfulness import (
    ROAD,
    AverageSensitivity,
    Complexity,
    Deletion,
    FaithfulnessCorrelation,
    Infidelity,
    MaxSensitivity,
    PixelFlipping,
    RandomLogit,
    Sparseness,
)
from advx_jax.analysis.faithfulness.rank_correlation import similarity
from advx_jax.analysis.faithfulness.units import Units
from advx_jax.attacks import example_keys

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import quantus
        from quantus.functions.similarity_func import correlation_spearman
except ImportError as error:
    pytest.skip(f"needs Quantus (pip install -e '.[peers]'): {error}", allow_module_level=True)

TOLERANCE = 1e-3
N, SIDE, HIDDEN, K = 5, 8, 16, 4
RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.normal(size=(SIDE**2, HIDDEN)) / 4, RNG.normal(size=(HIDDEN, K))
IMAGES = RNG.uniform(0.1, 1, (N, SIDE, SIDE, 1)).astype(np.float32)
TARGETS = RNG.integers(0, K, N).astype(np.int32)
ATTRIBUTIONS = RNG.normal(size=IMAGES.shape).astype(np.float32)
KEYS = example_keys(jax.random.key(1), jnp.arange(N))
# One channel, so that values lie in the same order in both.
X, A = IMAGES.transpose(0, 3, 1, 2), ATTRIBUTIONS.transpose(0, 3, 1, 2)


def network(numbers, images):
    first, second = numbers
    return jnp.tanh((images - 0.5).reshape(len(images), -1) @ first) @ second


MODEL = jax.tree_util.Partial(network, (jnp.asarray(FIRST, jnp.float32), jnp.asarray(SECOND, jnp.float32)))
OURS = MODEL, jnp.asarray(IMAGES), jnp.asarray(TARGETS)


class Twin(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = (torch.tensor(numbers, dtype=torch.float32) for numbers in (FIRST, SECOND))

    def forward(self, images):
        return torch.tanh((images - 0.5).flatten(1) @ self.first) @ self.second


def gradient(model, images, targets, key=None):
    return jax.grad(lambda x: jnp.take_along_axis(model(x), targets[:, None], 1).sum())(images)


def explain_func(model, inputs, targets, **_):
    """Our gradient, as Quantus calls methods."""
    images = jnp.asarray(inputs).reshape(-1, SIDE, SIDE, 1)
    return np.asarray(gradient(MODEL, images, jnp.asarray(targets))).transpose(0, 3, 1, 2)


def theirs(metric, attributions=A, **settings):
    """What one of their metrics gives, of raw attributions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = metric(
            normalise=False, disable_warnings=True, display_progressbar=False, return_aggregate=False, **settings
        )
        found = made(
            Twin().eval(), X, TARGETS, a_batch=attributions.copy(), channel_first=True, explain_func=explain_func
        )
    return np.asarray(found, np.float64)


def in_turn(draws):
    """Stands in for one of NumPy's generators."""
    left = iter(draws)
    return lambda *_, **__: next(left)


@pytest.mark.parametrize(("kind", "softmax"), [(PixelFlipping, False), (Deletion, True)])
def test_curves_are_those_of_pixel_flipping(kind, softmax):
    metric = kind(unit="value", steps=SIDE**2 // 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = quantus.PixelFlipping(features_in_step=4, perturb_baseline=0.0, normalise=False, disable_warnings=True)
        wanted = made(Twin().eval(), X, TARGETS, a_batch=A.copy(), channel_first=True, softmax=softmax)
    found = metric.curve(*OURS, jnp.asarray(ATTRIBUTIONS))[:, 1:]
    np.testing.assert_allclose(found, np.asarray(wanted), atol=TOLERANCE)


def test_faithfulness_correlation_of_the_same_subsets(monkeypatch):
    metric = FaithfulnessCorrelation(n_subsets=20, subset=0.25, unit="value")
    units = Units("value", 1, IMAGES.shape[1:])
    masks = [np.asarray(metric.drawn(KEYS, index, units)) for index in range(20)]
    monkeypatch.setattr(np.random, "choice", in_turn(np.flatnonzero(one) for mask in masks for one in mask))
    wanted = theirs(quantus.FaithfulnessCorrelation, nr_runs=20, subset_size=16, perturb_baseline=0.0)
    np.testing.assert_allclose(metric(*OURS, ATTRIBUTIONS, KEYS), wanted, atol=TOLERANCE)


def test_infidelity_where_one_block_is_the_image():
    metric = Infidelity(n_samples=2, perturbation="square", side=SIDE)
    wanted = theirs(quantus.Infidelity, perturb_patch_sizes=[SIDE], n_perturb_samples=1, perturb_baseline=0.0)
    np.testing.assert_allclose(metric(*OURS, ATTRIBUTIONS), wanted, rtol=TOLERANCE)


def test_road_without_noise():
    percentages = [10, 30, 50, 70, 90]
    metric = ROAD(fractions=tuple(p / 100 for p in percentages), noise=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = quantus.ROAD(percentages=percentages, noise=0.0, normalise=False, disable_warnings=True)
        wanted = made(Twin().eval(), X, TARGETS, a_batch=A.copy(), channel_first=True)
    found = metric.hits(*OURS, jnp.asarray(ATTRIBUTIONS), KEYS).mean(0)
    np.testing.assert_allclose(found, [wanted[p] for p in percentages], atol=TOLERANCE)


@pytest.mark.parametrize(("ours", "name"), [(Complexity(), "Complexity"), (Sparseness(), "Sparseness")])
def test_complexity_and_sparseness(ours, name):
    wanted = theirs(getattr(quantus, name), attributions=np.abs(A), abs=True)
    np.testing.assert_allclose(ours(*OURS, ATTRIBUTIONS), wanted, atol=TOLERANCE)


@pytest.mark.parametrize(("kind", "name"), [(MaxSensitivity, "MaxSensitivity"), (AverageSensitivity, "AvgSensitivity")])
def test_sensitivity_of_the_same_points(kind, name, monkeypatch):
    metric = kind(n_samples=6, radius=0.1)
    draws = [np.asarray(metric.drawn(KEYS, index, OURS[1])).reshape(N, -1) for index in range(6)]
    here = np.asarray(gradient(*OURS)).transpose(0, 3, 1, 2)
    monkeypatch.setattr(np.random, "uniform", in_turn(draws))
    wanted = theirs(getattr(quantus, name), attributions=here, nr_samples=6, lower_bound=0.1)
    np.testing.assert_allclose(metric(*OURS, gradient, KEYS), wanted, rtol=TOLERANCE)


def test_random_logit_of_the_same_classes(monkeypatch):
    metric = RandomLogit()
    others = np.asarray(metric.drawn(KEYS, OURS[2], K))
    here = np.asarray(gradient(*OURS)).transpose(0, 3, 1, 2)
    monkeypatch.setattr(np.random, "randint", in_turn([others - (others > TARGETS)]))
    wanted = theirs(quantus.RandomLogit, attributions=here, num_classes=K, similarity_func=correlation_spearman)
    np.testing.assert_allclose(metric(*OURS, gradient, KEYS), wanted, atol=TOLERANCE)


def test_the_similarity_of_parameter_randomisation():
    pair = [RNG.integers(-4, 5, (N, 30)).astype(np.float32) for _ in range(2)]
    wanted = correlation_spearman(*pair, batched=True)
    np.testing.assert_allclose(similarity("spearman", *map(jnp.asarray, pair)), wanted, atol=TOLERANCE)
