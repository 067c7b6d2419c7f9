"""What a pickle says about tensors, checked before any of their bytes is looked at.

A PyTorch pickle holds no numbers. It names storages (flat arrays that lie elsewhere in the file)
and describes tensors as views of them. Nothing of that is to be believed: it comes from outside.
"""

import math
from dataclasses import dataclass

import numpy as np

from advx_jax.errors import UserError
from advx_jax.messages import shown

_MOST_AXES = 8

# PyTorch writes the storages of other types too, but no network here has any.
STORAGE_TYPES: dict[str, np.dtype] = {
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.LongStorage": np.dtype("<i8"),
    # Read so that a network of another precision is refused by the names of its tensors.
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.HalfStorage": np.dtype("<f2"),
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
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self, data: memoryview) -> np.ndarray:
        """Copy the tensor out of its storage's bytes, in the machine's own byte order."""
        itemsize = self.storage.dtype.itemsize
        strides = tuple(
            stride * itemsize if size > 1 else itemsize for size, stride in zip(self.shape, self.strides, strict=True)
        )
        view = np.ndarray(self.shape, self.storage.dtype, data, self.offset * itemsize, strides)
        return np.array(view, dtype=self.storage.dtype.newbyteorder("="), order="C")


class TensorSpecs:
    """Collects what one pickle describes and holds them against the size of its file.

    Attributes:
        storages: the storages that were named, by key.
    """

    def __init__(self, limit: int) -> None:
        """Start with nothing described.

        Args:
            limit: bytes that all storages, and all tensors, may spec together.
        """
        self.storages: dict[str, StorageSpec] = {}
        self._left_for_storages = limit
        self._left_for_tensors = limit

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
        """Check the arguments of `torch._utils._rebuild_tensor_v2`.

        They are storage, offset, shape, strides, requires_grad, hooks and, in new files, metadata.

        Raises:
            UserError: they are anything else, or reach outside the storage.
        """
        if len(arguments) not in (6, 7) or not isinstance(arguments[0], StorageSpec):
            raise UserError("expected a tensor as PyTorch writes it, got other arguments of _rebuild_tensor_v2")
        storage, offset, shape, strides = arguments[:4]
        sizes_fit = _is_sizes(shape) and _is_sizes(strides) and len(shape) == len(strides) and _is_count(offset)
        if not sizes_fit or 0 in shape:
            raise UserError(f"a tensor in storage {shown(storage.key)} has no valid offset, shape and strides")
        n_elements = math.prod(shape)
        # No two elements need share a place, so that more elements than places is a trick.
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if n_elements > storage.count or last >= storage.count:
            raise UserError(
                f"a tensor reaches outside its storage {shown(storage.key)} of {storage.count} elements: "
                f"it has {shown(n_elements)}, the last at {shown(last)}"
            )
        self._left_for_tensors -= n_elements * storage.dtype.itemsize
        if self._left_for_tensors < 0:
            raise UserError("the tensors claim more bytes together than the file holds")
        return TensorSpec(storage, offset, shape, strides)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_sizes(value: object) -> bool:
    return isinstance(value, tuple) and len(value) <= _MOST_AXES and all(_is_count(size) for size in value)
