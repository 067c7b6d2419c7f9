"""A writer of the pickles that PyTorch reads, with no PyTorch: plain values and tensors only."""

import pickle
import struct
from collections import OrderedDict
from typing import Any

import numpy as np

_STORAGE_TYPES = {np.dtype(np.float32): "FloatStorage", np.dtype(np.int64): "LongStorage"}


def pickle_with_tensors(value: Any) -> tuple[bytes, list[bytes]]:
    """Pickle a value whose arrays PyTorch is to see as tensors.

    Args:
        value: None, bool, int, float, str, list, tuple, dict, OrderedDict, or a float32 or int64
            array; containers of these.

    Returns:
        The pickle, and the little-endian content of the storages "0", "1", … that it refers to.
    """
    storages: list[bytes] = []
    program = _value(value, storages)
    return pickle.PROTO + b"\x02" + program + pickle.STOP, storages


def _value(value: Any, storages: list[bytes]) -> bytes:
    if value is None:
        return pickle.NONE
    if isinstance(value, bool):
        return pickle.NEWTRUE if value else pickle.NEWFALSE
    if isinstance(value, int):
        encoded = pickle.encode_long(value)
        return pickle.LONG1 + bytes([len(encoded)]) + encoded
    if isinstance(value, float):
        return pickle.BINFLOAT + struct.pack(">d", value)
    if isinstance(value, str):
        # Half a surrogate pair, which no UTF-8 has, may come in somebody's name of a class.
        encoded = value.encode(errors="replace")
        return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded
    if isinstance(value, list):
        return pickle.EMPTY_LIST + pickle.MARK + _joined(value, storages) + pickle.APPENDS
    if isinstance(value, tuple):
        return pickle.MARK + _joined(value, storages) + pickle.TUPLE
    if isinstance(value, dict):
        items = [part for item in value.items() for part in item]
        empty = _ordered_dict() if isinstance(value, OrderedDict) else pickle.EMPTY_DICT
        return empty + pickle.MARK + _joined(items, storages) + pickle.SETITEMS
    if isinstance(value, np.ndarray):
        return _tensor(value, storages)
    raise TypeError(f"cannot pickle a value of type {type(value).__name__}")


def _joined(values: list[Any] | tuple[Any, ...], storages: list[bytes]) -> bytes:
    return b"".join(_value(value, storages) for value in values)


def _tensor(array: np.ndarray, storages: list[bytes]) -> bytes:
    array = np.asarray(array, order="C")
    reference = (
        pickle.MARK
        + _value("storage", storages)
        + _global("torch", _STORAGE_TYPES[array.dtype])
        + _joined((str(len(storages)), "cpu", array.size), storages)
        + pickle.TUPLE
        + pickle.BINPERSID
    )
    storages.append(array.astype(array.dtype.newbyteorder("<")).tobytes())
    strides = tuple(stride // array.itemsize for stride in array.strides)
    offset, requires_grad = 0, False
    return (
        _global("torch._utils", "_rebuild_tensor_v2")
        + pickle.MARK
        + reference
        + _joined((offset, array.shape, strides, requires_grad), storages)
        + _ordered_dict()  # of hooks
        + pickle.TUPLE
        + pickle.REDUCE
    )


def _ordered_dict() -> bytes:
    return _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()
