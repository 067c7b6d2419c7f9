"""A network together with its numbers: images in, logits out."""

import dataclasses
import functools
import hashlib
import re
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from flax import linen as nn
from flax import struct, traverse_util
from jaxtyping import Array, Float

from advx_jax.errors import UserError
from advx_jax.messages import size_in_words
from advx_jax.names import safe_name
from advx_jax.networks.architecture import Architecture
from advx_jax.networks.precision import InferenceDtype, product_precision

Variables = dict[str, Any]


class Wrapper(NamedTuple):
    """What PyTorch calls a network's normalisation, and with that the network inside of it.

    Attributes:
        mean: name of the tensor of means, for instance "mu" or "normalize.mean".
        std: name of the tensor of standard deviations.
        prefix: what stands before all other names, for instance "model.".
        n_axes: of both: 0 for one number, 1 for (channels), 3 for (channels, 1, 1), 4 for (1, channels, 1, 1).
        shared: whether one number stands there for all channels.
    """

    mean: str
    std: str
    prefix: str
    n_axes: int
    shared: bool = False

    def can_be_kept(self) -> bool:
        """Whether its names are what files of ours take: letters, digits, `_`, `.` and `-`, at most 200 of them."""
        return all(re.fullmatch(r"[\w.-]{0,200}", name) for name in (self.mean, self.std, self.prefix))


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where a network's numbers come from.

    Attributes:
        name: what to call it, for instance "resnet44-all"; whatever name is given, this is its form
            that is safe to print and as a part of a file name (`safe_name`), as files are full of surprises.
        options: how it was trained: `adversarial_training`, `l2_min`, `robust_additions`.
        psi_integrator: r of the controller of the Lipschitz penalty's weight, if it has one.
        source_sha256: of the file that it was converted from, if it was.
        batches_tracked: training passes that its running statistics have seen.
        wrapper: names in the PyTorch file that it was converted from, if that holds the normalisation.
        psi: ψ, that weight at the end of training: r tells it only together with the recipe's ψ₀ and rate. None if
            there is none, and where files of earlier versions do not tell it.
    """

    name: str = "unnamed"
    options: tuple[tuple[str, bool], ...] = ()
    psi_integrator: float | None = None
    source_sha256: str | None = None
    batches_tracked: int = 0
    wrapper: Wrapper | None = None
    psi: float | None = None

    def __post_init__(self) -> None:
        """Make the name safe."""
        object.__setattr__(self, "name", safe_name(self.name))


@struct.dataclass(eq=False)
class Classifier:
    """A network in evaluation mode; call it with images to get logits.

    It is a JAX pytree whose leaves are the variables: passed through `jit` it is compiled once for
    all networks of the same architecture.

    Attributes:
        variables: Flax collections `params`, `batch_stats` and `constants`.
        architecture: of the network.
        class_names: what its classes are called, in the order of its logits; None if nobody says it.
        compute_dtype: of the convolutions' products: "float32", or "tensorfloat32", which is faster on NVIDIA GPUs and
            moves logits by about 2e-4 of their size there.
    """

    variables: Variables
    architecture: Architecture = struct.field(pytree_node=False)
    class_names: tuple[str, ...] | None = struct.field(pytree_node=False, default=None)
    compute_dtype: InferenceDtype = struct.field(pytree_node=False, default="float32")

    @property
    def n_classes(self) -> int:
        """K, the number of classes."""
        return self.architecture.n_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images that it is made for."""
        return self.architecture.image_shape

    def __call__(self, images: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        """Logits of images on the [0,1] scale, in evaluation mode.

        Raises:
            UserError: the images are no batch, or have other channels than those that it is made for.
        """
        channels = self.image_shape[-1]
        if images.ndim != 4 or images.shape[-1] != channels:
            raise UserError(f"expected images of shape (batch, height, width, {channels}), got {images.shape}")
        return _logits(self, images)

    def __repr__(self) -> str:
        arch, leaves = self.architecture, jax.tree.leaves(self.variables)
        parts = [
            f"{arch.name}, {arch.activation}",
            f"{arch.n_classes} classes",
            f"images of {size_in_words(self.image_shape)}",
        ]
        # Inside compiled code, and where JAX puts other things in their place, variables have no values.
        if all(isinstance(leaf, np.ndarray | jax.Array) and not isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            n_parameters = sum(leaf.size for leaf in jax.tree.leaves(self.variables.get("params", {})))
            parts += [f"{n_parameters:,} parameters", f"sha256 {self.fingerprint()[:8]}…"]
        return f"Classifier({', '.join(parts)})"

    def in_training_mode(
        self, images: Float[Array, "batch height width channels"], batch_stats: Variables
    ) -> tuple[Float[Array, "batch classes"], Variables]:
        """One pass in training mode: the batch's own statistics normalise it and move the running ones.

        Args:
            images: on the [0,1] scale.
            batch_stats: running statistics before the pass; `variables["batch_stats"]` to begin with.

        Returns:
            Logits, and the running statistics after the pass.
        """
        variables = {**self.variables, "batch_stats": batch_stats}
        logits, moved = self.module().apply(variables, images, train=True, mutable=["batch_stats"])
        return logits, moved["batch_stats"]

    def module(self) -> nn.Module:
        """The network without its numbers, computing as `compute_dtype` says."""
        return self.architecture.module(precision=product_precision(self.compute_dtype))

    def fingerprint(self) -> str:
        """Sha256 of architecture and numbers: equal for equal networks, wherever they come from and run."""
        digest = hashlib.sha256(self.architecture.identity.encode())
        for name, value in sorted(traverse_util.flatten_dict(self.variables, sep="/").items()):
            digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()


# Inlined, so that programs stay what they are; traced once for all that ask for as many images.
@functools.partial(jax.jit, inline=True)
def _logits(classifier: Classifier, images: Array) -> Array:
    return cast(Array, classifier.module().apply(classifier.variables, images))


# Tracing takes longer than reading a file does.
@functools.lru_cache(maxsize=32)
def expected_variables(architecture: Architecture) -> Variables:
    """Shapes and types of the variables that an architecture has, as `jax.ShapeDtypeStruct`s; not to be changed."""
    images = jax.ShapeDtypeStruct((1, *architecture.image_shape), "float32")
    return jax.eval_shape(architecture.module().init, jax.random.key(0), images)
