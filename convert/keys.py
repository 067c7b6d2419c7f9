"""The strict map between PyTorch's tensor names and layouts and the Flax variables of `advx_jax`."""

import enum
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import traverse_util

from advx_jax.errors import UserError
from advx_jax.messages import listed, shown
from advx_jax.networks.architecture import Architecture
from advx_jax.networks.classifier import Variables, expected_variables
from advx_jax.networks.families import ResidualArchitecture
from advx_jax.networks.resnet import ResNetArchitecture

from .families import layer_names
from .normalisation import Normalisation


class Kind(enum.Enum):
    """What a PyTorch tensor is, and with that what becomes of it in Flax."""

    VECTOR = "the same in both"
    CONVOLUTION = "(out, in, height, width) to (height, width, in, out)"
    HEAD = "a 1x1 convolution (out, in, 1, 1) to a matrix (in, out)"
    LINEAR = "a matrix (out, in) to (in, out)"
    INPUT_OFFSET = "(mean and std, channels) to two constants"
    BATCHES_TRACKED = "the count of training passes, equal everywhere, to the provenance"
    BOWL_WIDTH = "d of the Half-Huber ReLU, equal everywhere, to the architecture"


@dataclass(frozen=True)
class TensorKey:
    """One tensor of a network.

    Attributes:
        torch: its name in PyTorch, for instance "pipe.1.0.pre.0.weight".
        shape: in PyTorch.
        kind: of tensor.
        flax: path of its Flax variable, for instance "params/stage1_block1/bn1/scale"; empty if
            it becomes something else.
    """

    torch: str
    shape: tuple[int, ...]
    kind: Kind = Kind.VECTOR
    flax: str = ""

    @property
    def dtype(self) -> np.dtype:
        """Type of the elements, the same in PyTorch and Flax."""
        return np.dtype(np.int64 if self.kind is Kind.BATCHES_TRACKED else np.float32)


@functools.lru_cache(maxsize=8)
def tensor_keys(architecture: Architecture) -> tuple[TensorKey, ...]:
    """All tensors of a network, in the order of PyTorch's state dict (docs/networks.md).

    Raises:
        UserError: no table has the names of this family.
    """
    if isinstance(architecture, ResNetArchitecture):
        return tuple(_network_keys(architecture))
    if isinstance(architecture, ResidualArchitecture):
        return tuple(_residual_keys(architecture))
    raise UserError(f"expected a network whose names in PyTorch are known, got {architecture.name}")


def to_flax(
    tensors: Mapping[str, np.ndarray], architecture: Architecture, normalisation: Normalisation | None = None
) -> Variables:
    """Rename and rearrange a network's PyTorch tensors, which `check_tensors` has seen.

    Args:
        tensors: by their names in PyTorch.
        architecture: of the network.
        normalisation: of the images, for families that have no tensor for it; none at all if None.
    """
    flat: dict[str, np.ndarray] = {}
    if isinstance(architecture, ResidualArchitecture):
        constants = (normalisation or Normalisation((0.0,), (1.0,))).constants(architecture.image_shape[2])
        flat |= {f"constants/{name}": value for name, value in constants.items()}
    for key in tensor_keys(architecture):
        tensor = tensors[key.torch]
        if key.kind is Kind.INPUT_OFFSET:
            flat["constants/mean"], flat["constants/std"] = tensor
        elif key.kind is Kind.CONVOLUTION:
            flat[key.flax] = tensor.transpose(2, 3, 1, 0)
        elif key.kind is Kind.HEAD:
            flat[key.flax] = tensor[:, :, 0, 0].T
        elif key.kind is Kind.LINEAR:
            flat[key.flax] = tensor.T
        elif key.kind is Kind.VECTOR:
            flat[key.flax] = tensor
    return traverse_util.unflatten_dict({path: np.array(value, order="C") for path, value in flat.items()}, sep="/")


def to_torch(variables: Variables, architecture: Architecture, batches_tracked: int) -> dict[str, np.ndarray]:
    """Undo `to_flax`; the dict has PyTorch's order, and no normalisation where the family has no tensor for it."""
    flat = {path: np.asarray(value) for path, value in traverse_util.flatten_dict(variables, sep="/").items()}
    tensors = {}
    for key in tensor_keys(architecture):
        if key.kind is Kind.INPUT_OFFSET:
            tensor = np.stack([flat["constants/mean"], flat["constants/std"]])
        elif key.kind is Kind.BATCHES_TRACKED:
            tensor = np.array(batches_tracked)
        elif key.kind is Kind.BOWL_WIDTH and isinstance(architecture, ResNetArchitecture):
            tensor = np.array(architecture.bowl_width)
        elif key.kind is Kind.CONVOLUTION:
            tensor = flat[key.flax].transpose(3, 2, 0, 1)
        elif key.kind is Kind.HEAD:
            tensor = flat[key.flax].T[:, :, np.newaxis, np.newaxis]
        elif key.kind is Kind.LINEAR:
            tensor = flat[key.flax].T
        else:
            tensor = flat[key.flax]
        tensors[key.torch] = np.array(tensor, dtype=key.dtype, order="C")
    return tensors


def check_tensors(tensors: Mapping[str, np.ndarray], architecture: Architecture) -> None:
    """Compare PyTorch tensors with those that a network has.

    Raises:
        UserError: a tensor is missing, surplus, or of another shape or type; each is named.
    """
    expected = {key.torch: _described(key) for key in tensor_keys(architecture)}
    found = {name: _described(tensor) for name, tensor in tensors.items()}
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{shown(name)} is surplus" for name in found if name not in expected]
    problems += [
        f"{name}: expected {expected[name]}, got {found[name]}"
        for name in expected
        if name in found and expected[name] != found[name]
    ]
    if problems:
        raise UserError(f"the tensors do not fit the architecture: {listed(problems)}")


def common_value(tensors: Mapping[str, np.ndarray], architecture: Architecture, kind: Kind) -> float | int | None:
    """The one value of all (scalar) tensors of a kind, or None if the network has no such tensor.

    Raises:
        UserError: they differ.
    """
    names = [key.torch for key in tensor_keys(architecture) if key.kind is kind]
    values = {tensors[name].item() for name in names}
    if len(values) > 1:
        suffix = names[0].rpartition(".")[2]
        raise UserError(f"expected the same {suffix} everywhere, got {listed([shown(v) for v in sorted(values)])}")
    return values.pop() if values else None


def _described(tensor: TensorKey | np.ndarray) -> str:
    return f"{tensor.dtype.name}{list(tensor.shape)}"


def _network_keys(architecture: ResNetArchitecture) -> Iterator[TensorKey]:
    widths, channels = architecture.stage_widths, architecture.image_shape[2]
    yield TensorKey("input_offset", (2, channels), Kind.INPUT_OFFSET)
    yield _convolution("pipe.0", "stem", channels, widths[0])
    before = widths[0]
    for stage, (length, width) in enumerate(zip(architecture.stage_lengths, widths, strict=True), start=1):
        for block in range(length):
            halves = stage > 1 and block == 0
            torch, flax = f"pipe.{stage}.{block}", f"stage{stage}_block{block + 1}"
            yield from _batch_norm(f"{torch}.pre.0", f"{flax}/bn1", before)
            yield from _activation(f"{torch}.pre.1", architecture)
            yield _convolution(f"{torch}.main.0", f"{flax}/conv1", before, width)
            yield from _batch_norm(f"{torch}.main.1", f"{flax}/bn2", width)
            yield from _activation(f"{torch}.main.2", architecture)
            yield _convolution(f"{torch}.main.3", f"{flax}/conv2", width, width)
            if halves or before != width:
                yield _convolution(f"{torch}.shortcut", f"{flax}/shortcut", before, width)
            before = width
    # Behind the stages: BatchNorm, activation, pooling (which has no tensors), 1x1 convolution.
    after = len(widths) + 1
    yield from _batch_norm(f"pipe.{after}", "head_bn", before)
    yield from _activation(f"pipe.{after + 1}", architecture)
    yield TensorKey(f"pipe.{after + 3}.weight", (architecture.n_classes, before, 1, 1), Kind.HEAD, "params/head/kernel")
    yield TensorKey(f"pipe.{after + 3}.bias", (architecture.n_classes,), flax="params/head/bias")


def _convolution(torch: str, flax: str, inputs: int, outputs: int) -> TensorKey:
    return TensorKey(f"{torch}.weight", (outputs, inputs, 3, 3), Kind.CONVOLUTION, f"params/{flax}/kernel")


def _batch_norm(torch: str, flax: str, width: int) -> Iterator[TensorKey]:
    yield TensorKey(f"{torch}.weight", (width,), flax=f"params/{flax}/scale")
    yield TensorKey(f"{torch}.bias", (width,), flax=f"params/{flax}/bias")
    yield TensorKey(f"{torch}.running_mean", (width,), flax=f"batch_stats/{flax}/mean")
    yield TensorKey(f"{torch}.running_var", (width,), flax=f"batch_stats/{flax}/var")
    yield TensorKey(f"{torch}.num_batches_tracked", (), Kind.BATCHES_TRACKED)


def _activation(torch: str, architecture: ResNetArchitecture) -> Iterator[TensorKey]:
    if architecture.activation == "half_huber":
        yield TensorKey(f"{torch}.d", (), Kind.BOWL_WIDTH)


def _residual_keys(architecture: ResidualArchitecture) -> Iterator[TensorKey]:
    """The family's table of layers, with the shapes that the network has in Flax."""
    flat: dict[str, Any] = traverse_util.flatten_dict(expected_variables(architecture), sep="/")
    layers = {path.partition("/")[2].rpartition("/")[0] for path in flat}
    for torch, flax in layer_names(architecture, layers):
        if f"params/{flax}/scale" in flat:
            yield from _batch_norm(torch, flax, *flat[f"params/{flax}/scale"].shape)
            continue
        *extents, inputs, outputs = flat[f"params/{flax}/kernel"].shape
        kind = Kind.CONVOLUTION if extents else Kind.LINEAR
        yield TensorKey(f"{torch}.weight", (outputs, inputs, *extents), kind, f"params/{flax}/kernel")
        if f"params/{flax}/bias" in flat:
            yield TensorKey(f"{torch}.bias", (outputs,), flax=f"params/{flax}/bias")
