"""Small random networks that need no file from outside."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from advx_jax.networks.architecture import Architecture
from advx_jax.networks.classifier import Classifier
from advx_jax.networks.resnet import ResNetArchitecture

TINY = ResNetArchitecture((1, 1), (4, 6), activation="half_huber")


def random_classifier(seed: int = 0, architecture: Architecture = TINY, dtype: str = "float32") -> Classifier:
    """A network in which every number matters: nothing is 0 or 1 as after initialisation."""
    rng = np.random.default_rng(seed)
    flat = {path: _random_leaf(rng, path[-1], shape) for path, shape in _shapes(architecture).items()}
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), traverse_util.unflatten_dict(flat))
    return Classifier(variables, architecture)


@functools.cache
def _shapes(architecture: Architecture) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Of all variables, in the order in which the network makes them; traced, as initialising takes long."""
    shapes = {}

    def initialise(images: jax.Array) -> None:
        variables = architecture.module().init(jax.random.key(0), images)
        shapes.update({path: leaf.shape for path, leaf in traverse_util.flatten_dict(variables).items()})

    jax.eval_shape(initialise, jax.ShapeDtypeStruct((1, *architecture.image_shape), "float32"))
    return shapes


def _random_leaf(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name in ("var", "std", "scale"):
        return rng.uniform(0.5, 1.5, shape)
    values = rng.normal(size=shape)
    # Kernels that keep the size of what passes through them, so that logits are of order 1.
    return values * np.sqrt(2 / np.prod(shape[:-1])) if name == "kernel" else values / 2
