"""Attributions against Captum's, on the same networks in PyTorch."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advx_jax.analysis.attribution import (
    GradCAM,
    Gradient,
    InputXGradient,
    IntegratedGradients,
    Occlusion,
    SmoothGrad,
    VarGrad,
    attribute_images,
    completeness_gap,
    sample_noise,
    target_logits,
)
from advx_jax.attacks import example_keys

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")

from conftest import PUBLISHED_NAMES
from reference.images import to_numpy, to_torch
from reference.peers import in_float64, peer
from reference.published import load_published

try:
    attr = peer("captum.attr")
except ImportError as error:
    pytest.skip(f"needs captum (pip install -e '.[peers]'): {error}", allow_module_level=True)

STEPS, SAMPLES, SIGMA, WINDOW, STRIDE = 12, 5, 0.1, (3, 4), (2, 3)
# Relative to the largest value. In float64 only the order of sums differs, but Captum keeps the lengths of integration
# steps, and how many windows cover a position, in float32; in float32 on deep networks rounding does.
EXACTLY, NEARLY = 1e-12, 1e-4
FLOAT32_WITHIN = dict.fromkeys(("integrated gradients", "integrated gradients, midpoint", "occlusion"), 2e-7)


def last_stage(twin):
    """Its last residual block: behind it are BatchNorm, activation, pooling, head and flattening."""
    return twin.pipe[-6][-1]


def integrated(rule, captums_rule):
    def by_captum(twin, x, y, noise):
        return attr.IntegratedGradients(twin).attribute(x, target=y, n_steps=STEPS, method=captums_rule)

    return IntegratedGradients(steps=STEPS, rule=rule), by_captum


def noisy(kind):
    def by_captum(twin, x, y, noise):
        left = iter(noise)
        with pytest.MonkeyPatch.context() as patch:
            # Captum takes no noise from outside.
            patch.setattr(torch, "normal", lambda mean, stds: mean + stds * next(left))
            found = attr.NoiseTunnel(attr.Saliency(twin)).attribute(
                x, nt_type=kind, nt_samples=SAMPLES, nt_samples_batch_size=1, stdevs=SIGMA, target=y, abs=False
            )
        assert next(left, None) is None
        return found

    return by_captum


def occlusion(twin, x, y, noise):
    found = attr.Occlusion(twin).attribute(x, (3, *WINDOW), (3, *STRIDE), baselines=0.25, target=y)
    assert (found == found[:, :1]).all()
    return found


def grad_cam(twin, x, y, noise):
    return attr.LayerGradCam(twin, last_stage(twin)).attribute(x, target=y)


PAIRS = {
    "saliency": (Gradient(), lambda twin, x, y, noise: attr.Saliency(twin).attribute(x, target=y, abs=False)),
    "input x gradient": (
        InputXGradient(),
        lambda twin, x, y, noise: attr.InputXGradient(twin).attribute(x, target=y),
    ),
    "integrated gradients": integrated("gauss_legendre", "gausslegendre"),
    "integrated gradients, midpoint": integrated("midpoint", "riemann_middle"),
    "smoothgrad": (SmoothGrad(sigma=SIGMA, samples=SAMPLES), noisy("smoothgrad")),
    "vargrad": (VarGrad(sigma=SIGMA, samples=SAMPLES), noisy("vargrad")),
    "occlusion": (Occlusion(window=WINDOW, stride=STRIDE, fill=0.25), occlusion),
    "grad-cam": (GradCAM(upsample=False), grad_cam),
}


def difference(name, classifier, twin, images, targets):
    """Largest difference of attributions, relative to the largest of Captum's."""
    method, by_captum = PAIRS[name]
    keys = example_keys(None, jnp.arange(len(images)))
    noise = [to_torch(np.asarray(sample_noise(keys, jnp.asarray(images), number))) for number in range(SAMPLES)]
    x = to_torch(images).requires_grad_()
    expected = to_numpy(by_captum(twin, x, torch.tensor(targets, dtype=torch.int64), noise))
    if method.is_spatial:
        expected = expected[..., 0]
    found = method(classifier, images, targets)
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
def test_a_small_network_in_float64(name):
    with in_float64() as (classifier, twin, images, labels):
        far = difference(name, classifier, twin, images, (labels + 1) % 10)
    assert far < FLOAT32_WITHIN.get(name, EXACTLY)


@pytest.fixture(scope="module", params=PUBLISHED_NAMES)
def published(request, shared_dir):
    from advx_jax.convert import read_pt

    path = shared_dir / "prebuilt" / f"{request.param}.pt"
    return request.param, read_pt(path)[0], load_published(path)[0]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
def test_published_networks(name, published, ara_subset):
    """In float64: in float32 some ReLU of the deep networks is on the other side of its kink by rounding alone."""
    network, classifier, twin = published
    images, labels = (values[:4] for values in ara_subset)
    torch.set_default_dtype(torch.float64)
    try:
        with jax.enable_x64(True):
            precise = classifier.replace(
                variables=jax.tree.map(lambda value: jnp.asarray(np.asarray(value), "float64"), classifier.variables)
            )
            far = difference(name, precise, copy.deepcopy(twin).double(), images.astype(np.float64), labels)
    finally:
        torch.set_default_dtype(torch.float32)
    print(f"\n{network}, {name}: {far:.2g}")
    assert far < NEARLY


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
def test_a_published_network_without_kinks_in_float32(name, published_pt, ara_subset):
    from advx_jax.convert import read_pt

    path = published_pt("resnet44-robust")
    images, labels = (values[:4] for values in ara_subset)
    assert difference(name, read_pt(path)[0], load_published(path)[0], images, labels) < NEARLY


def test_integrated_gradients_of_published_networks_are_complete(published, ara_subset):
    network, classifier, _ = published
    images = jnp.asarray(ara_subset[0])
    targets = jax.jit(classifier)(images).argmax(-1)
    method = IntegratedGradients(steps=64)
    found = attribute_images(classifier, images, targets, method)
    baselines = method.baselines(images)
    gaps = jax.jit(completeness_gap)(classifier, images, targets, found, baselines)
    whole, nothing = (jax.jit(target_logits)(classifier, x, targets) for x in (images, baselines))
    changes = jnp.abs(whole - nothing)
    together = (gaps * changes).sum() / changes.sum()
    print(f"\n{network}: gap {together:.2g}, median {np.median(gaps):.2g}, at most {gaps.max():.2g}")
    # Where the logit hardly changes, a single image's gap is large by itself; derivatives jump where units are ReLUs.
    assert max(together, np.median(gaps)) < 0.01
    assert classifier.architecture.activation == "relu" or (gaps * changes).max() < 0.01 * changes.mean()
