"""A linear classifier and attributions of it, whose metrics are known on paper."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SHAPE, N, K = (6, 5, 3), 4, 3


def linear(numbers, images):
    weights, bias = numbers
    return jnp.einsum("bhwc,khwc->bk", images, weights, precision="highest") + bias


class Linear(NamedTuple):
    """z_k = w_k·x + b_k.

    Attributes:
        weights: w.
        bias: b.
        model: images to logits.
        images: x.
        targets: t.
        slopes: w_t, what the gradient attributes.
        parts: x·w_t, what the gradient times the image does; it is complete for a black baseline.
    """

    weights: np.ndarray
    bias: np.ndarray
    model: jax.tree_util.Partial
    images: np.ndarray
    targets: np.ndarray
    slopes: np.ndarray
    parts: np.ndarray

    def logits(self, images: np.ndarray) -> np.ndarray:
        """In float64."""
        return np.einsum("bhwc,khwc->bk", np.asarray(images, np.float64), self.weights) + self.bias

    def target_logits(self, images: np.ndarray) -> np.ndarray:
        """Of the targets."""
        return self.logits(images)[np.arange(N), self.targets]


def linear_case(seed: int = 0) -> Linear:
    """One of random numbers."""
    rng = np.random.default_rng(seed)
    weights, bias = rng.normal(size=(K, *SHAPE)).astype(np.float32), rng.normal(size=K).astype(np.float32)
    images, targets = rng.uniform(0.1, 1, (N, *SHAPE)).astype(np.float32), rng.integers(0, K, N).astype(np.int32)
    model = jax.tree_util.Partial(linear, (jnp.asarray(weights), jnp.asarray(bias)))
    slopes = weights[targets]
    return Linear(weights, bias, model, images, targets, slopes, slopes * images)


def gradient(model, images, targets, key=None):
    """A method."""
    return jax.grad(lambda x: jnp.take_along_axis(model(x), targets[:, None], 1).sum())(images)


def gradient_times_image(model, images, targets, key=None):
    """Another."""
    return images * gradient(model, images, targets)


def noisy_gradient(model, images, targets, key):
    """One that draws, with a key for each example."""
    noise = jax.vmap(lambda one: jax.random.normal(one, images.shape[1:]))(key)
    return gradient(model, images + 0.1 * noise, targets) + 0.1 * noise
