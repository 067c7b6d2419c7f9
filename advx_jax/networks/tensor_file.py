"""The safetensors format: a header in JSON, then the numbers; written the same way every time.

The safetensors library writes the metadata in an order that differs from run to run, and reads a
name that stands in a header twice as if it stood there once.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from advx_jax.errors import UserError
from advx_jax.messages import shown

_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 8
# A published network's takes 20 kB; reading JSON costs twenty times its size.
_LARGEST_HEADER = 4 * 2**20
_METADATA = "__metadata__"
_TYPE_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


class Header(NamedTuple):
    """What a file says of itself, before any of its numbers are looked at.

    Attributes:
        metadata: text by key.
        tensors: type and shape of each tensor by its name, for instance "float32[3, 3, 3, 16]".
    """

    metadata: dict[str, str]
    tensors: dict[str, str]


def described(dtype: str, shape: tuple[int, ...] | list[int]) -> str:
    """Type and shape of a tensor as `Header` has them."""
    return f"{dtype}{list(shape)}"


def tensor_bytes(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Content of a safetensors file: equal for equal tensors and metadata, whatever their order.

    Args:
        tensors: float32 arrays by name.
        metadata: text by key.
    """
    arrays = {name: np.asarray(tensors[name]).astype("<f4", order="C") for name in sorted(tensors)}
    fields: dict[str, Any] = {_METADATA: {key: metadata[key] for key in sorted(metadata)}}
    end = 0
    for name, array in arrays.items():
        fields[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(fields, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % _ALIGNMENT)
    return b"".join([_LENGTH.pack(len(text)), text, *(array.tobytes() for array in arrays.values())])


def read_header(data: bytes) -> Header:
    """Read what a safetensors file says of itself.

    Raises:
        UserError: it is no such file, its header is damaged or absurdly large, or names a tensor twice.
    """
    if len(data) < _LENGTH.size:
        raise UserError(f"expected a safetensors file, got {len(data)} bytes")
    (length,) = _LENGTH.unpack_from(data)
    if length > _LARGEST_HEADER:
        raise UserError(f"expected a safetensors header of at most {_LARGEST_HEADER} bytes, got {length}")
    if length > len(data) - _LENGTH.size:
        raise UserError(f"the file is cut off: expected a header of {length} bytes, got {len(data) - _LENGTH.size}")
    text = data[_LENGTH.size : _LENGTH.size + length]
    try:
        fields = json.loads(text.decode(), object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the safetensors header is damaged: {error}") from error
    if not isinstance(fields, dict):
        raise UserError(f"expected a JSON object as the safetensors header, got {shown(fields)}")
    metadata = fields.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UserError("expected text by key as the metadata of the safetensors file, got something else")
    return Header(metadata, {name: _described(name, tensor) for name, tensor in fields.items()})


def read_tensors(data: bytes) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file whose header was found to be in order.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return dict(safetensors.numpy.load(data))
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the safetensors file is damaged: {error}") from error


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise UserError(f"{shown(next(name for name in names if names.count(name) > 1))} stands there twice")
    return fields


def _described(name: str, tensor: object) -> str:
    fields = tensor if isinstance(tensor, dict) else {}
    dtype, shape = fields.get("dtype"), fields.get("shape")
    if not isinstance(dtype, str) or not isinstance(shape, list) or not all(type(size) is int for size in shape):
        raise UserError(f"expected type and shape of the tensor {shown(name)} in the header, got something else")
    known = _TYPE_NAMES.get(dtype)
    if known is None:
        raise UserError(f"expected a type of numbers for the tensor {shown(name)}, got {shown(dtype)}")
    return described(known, shape)
