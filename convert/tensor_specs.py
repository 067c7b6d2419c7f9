"""What a pickle says about tensors, checked before any of their bytes is looked at.

A PyTorch pickle holds no numbers. It names storages (flat arrays that lie elsewhere in the file)
and describes tensors as views of them. Nothing of that is to be believed: it comes from outside.
"""

import math
from dataclasses import dataclass
from typing import TypeGuard

import jax.numpy as jnp
import numpy as np

from advx_jax.errors import UserError
from advx_jax.messages import shown

_MOST_AXES = 8
# So many that no file holds them; NumPy makes no array of a larger shape, be it empty.
_MOST_ELEMENTS = 2**48

_BFLOAT16 = np.dtype(jnp.bfloat16)
STORAGE_TYPES: dict[str, np.dtype] = {
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.BFloat16Storage": _BFLOAT16,
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.CharStorage": np.dtype("<i1"),
    "torch.ByteStorage": np.dtype("<u1"),
    "torch.BoolStorage": np.dtype("?"),
    "torch.ComplexFloatStorage": np.dtype("<c8"),
    "torch.ComplexDoubleStorage": np.dtype("<c16"),
    # Bytes, of which a tensor says itself what they are.
    "torch.storage.UntypedStorage": np.dtype("<u1"),
}
TENSOR_TYPES: dict[str, np.dtype] = {
    "torch.float32": np.dtype("<f4"),
    "torch.float64": np.dtype("<f8"),
    "torch.float16": np.dtype("<f2"),
    "torch.bfloat16": _BFLOAT16,
    "torch.int64": np.dtype("<i8"),
    "torch.int32": np.dtype("<i4"),
    "torch.int16": np.dtype("<i2"),
    "torch.int8": np.dtype("<i1"),
    "torch.uint64": np.dtype("<u8"),
    "torch.uint32": np.dtype("<u4"),
    "torch.uint16": np.dtype("<u2"),
    "torch.uint8": np.dtype("<u1"),
    "torch.bool": np.dtype("?"),
    "torch.complex64": np.dtype("<c8"),
    "torch.complex128": np.dtype("<c16"),
    "torch.float8_e4m3fn": np.dtype(jnp.float8_e4m3fn),
    "torch.float8_e5m2": np.dtype(jnp.float8_e5m2),
}


@dataclass(frozen=True)
class GlobalName:
    """A Python object that a pickle names, for instance "torch.FloatStorage"; only ever the name."""

    name: str


@dataclass(frozen=True)
class StorageSpec:
    """A flat array that should lie in the file.

    Attributes:
        key: its name in the file.
        dtype: of its elements, little-endian.
        count: of its elements.
    """

    key: str
    dtype: np.dtype
    count: int

    @property
    def n_bytes(self) -> int:
        """Size of the storage in the file."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class TensorSpec:
    """A view of a storage, known to lie inside the storage as described; offset and strides in elements."""

    storage: StorageSpec
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        """Memory that the tensor takes: more than its storage, where it repeats elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, data: memoryview) -> np.ndarray:
        """Copy the tensor out of its storage's bytes, in the machine's own byte order."""
        own = self.dtype.newbyteorder("=")
        if 0 in self.shape:
            return np.empty(self.shape, own)
        itemsize = self.dtype.itemsize
        strides = tuple(
            stride * itemsize if size > 1 else itemsize for size, stride in zip(self.shape, self.strides, strict=True)
        )
        view = np.ndarray(self.shape, self.dtype, data, self.offset * itemsize, strides)
        return np.array(view, dtype=own, order="C")


class TensorSpecs:
    """Collects what one pickle describes and holds it against the size of its file.

    Attributes:
        storages: the storages that were named, by key.
    """

    def __init__(self, limit: int) -> None:
        """Start with nothing described.

        Args:
            limit: bytes that all storages may claim together.
        """
        self.storages: dict[str, StorageSpec] = {}
        self._left_for_storages = limit

    def storage(self, persistent_id: object) -> StorageSpec:
        """Check a persistent id, `('storage', type, key, device, count)` and in old files a last None.

        Raises:
            UserError: it is anything else, or claims more than the file can hold.
        """
        fields = persistent_id if isinstance(persistent_id, tuple) else ()
        if len(fields) == 6 and fields[5] is None:
            fields = fields[:5]
        if len(fields) != 5 or fields[0] != "storage" or not all(isinstance(fields[i], str) for i in (2, 3)):
            raise UserError("expected a reference to a storage as PyTorch writes it, got another persistent id")
        # The fourth is where the network was trained, for instance "cuda:0"; it does not matter here.
        _, kind, key, _, count = fields
        if not isinstance(kind, GlobalName) or kind.name not in STORAGE_TYPES:
            got = kind.name if isinstance(kind, GlobalName) else shown(kind)
            raise UserError(f"expected a storage of one of the types {', '.join(STORAGE_TYPES)}, got {got}")
        if not _is_count(count):
            raise UserError(f"expected the element count of storage {shown(key)}, got {shown(count)}")
        spec = StorageSpec(key, STORAGE_TYPES[kind.name], count)
        known = self.storages.get(key)
        if known is None:
            self._left_for_storages -= spec.n_bytes
            if self._left_for_storages < 0:
                raise UserError(f"storage {shown(key)} claims {shown(count)} elements, more than the file holds")
            self.storages[key] = spec
        elif known != spec:
            raise UserError(f"storage {shown(key)} is described in two ways")
        return spec

    def tensor(self, arguments: tuple) -> TensorSpec:
        """Check the arguments of `torch._utils._rebuild_tensor_v2`, or of its predecessor `_rebuild_tensor`.

        They are storage, offset, shape, strides; but for the predecessor requires_grad and hooks; and in new
        files metadata.

        Raises:
            UserError: they are anything else, or reach outside the storage.
        """
        if len(arguments) not in (4, 6, 7) or not isinstance(arguments[0], StorageSpec):
            raise UserError("expected a tensor as PyTorch writes it, got other arguments of _rebuild_tensor_v2")
        return self._view(arguments, arguments[0].dtype)

    def typed_tensor(self, arguments: tuple) -> TensorSpec:
        """Check the arguments of `torch._utils._rebuild_tensor_v3`: a storage of bytes, and after the hooks a type.

        Raises:
            UserError: they are anything else, or reach outside the storage.
        """
        if len(arguments) not in (7, 8) or not isinstance(arguments[0], StorageSpec) or arguments[0].dtype.itemsize > 1:
            raise UserError("expected a tensor as PyTorch writes it, got other arguments of _rebuild_tensor_v3")
        name = arguments[6].name if isinstance(arguments[6], GlobalName) else ""
        if name not in TENSOR_TYPES:
            raise UserError(f"expected a tensor of one of the types {', '.join(TENSOR_TYPES)}, got another")
        return self._view(arguments, TENSOR_TYPES[name])

    def _view(self, arguments: tuple, dtype: np.dtype) -> TensorSpec:
        storage, offset, shape, strides = arguments[:4]
        sizes_fit = is_sizes(shape) and is_sizes(strides) and len(shape) == len(strides) and _is_count(offset)
        if not sizes_fit or not fits_an_array(shape):
            raise UserError(f"a tensor in storage {shown(storage.key)} has no valid offset, shape and strides")
        n_elements = math.prod(shape)
        # An empty tensor has no last element; how far it starts from the beginning does not matter.
        last = (
            offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) if n_elements else -1
        )
        available = storage.n_bytes // dtype.itemsize
        if last >= available:
            raise UserError(
                f"a tensor reaches outside its storage {shown(storage.key)} of {available} elements: "
                f"it has {shown(n_elements)}, the last at {shown(last)}"
            )
        return TensorSpec(storage, dtype, offset, shape, strides)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def is_sizes(value: object) -> TypeGuard[tuple[int, ...]]:
    """Whether a value can be a shape, or strides."""
    return isinstance(value, tuple) and len(value) <= _MOST_AXES and all(_is_count(size) for size in value)


def fits_an_array(shape: tuple[int, ...]) -> bool:
    """Whether NumPy can make an array of this shape, be it empty."""
    return math.prod(max(size, 1) for size in shape) <= _MOST_ELEMENTS
