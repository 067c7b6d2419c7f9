"""What a PyTorch pickle may name, and what becomes of it: plain values, `TensorSpec`s, or a placeholder.

Nothing is ever looked up, imported or called: names are compared with those below, and what a call
would give is made here out of its arguments, where it is needed at all.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from advx_jax.errors import UserError
from advx_jax.messages import shown

from .tensor_specs import STORAGE_TYPES, TENSOR_TYPES, GlobalName, TensorSpec, TensorSpecs, fits_an_array, is_sizes

PREPROCESS = GlobalName("__main__.cifar10_preprocess")
"""A function that the published networks carry in their options; it stays a name."""

_FROM_TYPE = GlobalName("torch._tensor._rebuild_from_type_v2")
_REMEDY = "save the network's state_dict() alone"
_LONGEST_NAME = 200
_BUILTINS = ("builtins", "__builtin__")
_NUMPY_CORES = ("numpy.core", "numpy._core")
# Only ever names: arguments of others, and the types that make missing values of a defaultdict.
_NAMES = {
    PREPROCESS.name,
    *STORAGE_TYPES,
    *TENSOR_TYPES,
    *("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "numpy.ndarray"),
    *(f"{module}.{name}" for module in _BUILTINS for name in ("dict", "list", "tuple", "int", "float", "str", "bool")),
}
# Classes whose objects often lie beside a network; of an object only the name of its class is kept.
_CLASSES = {
    *("argparse.Namespace", "collections.Counter", "collections.deque"),
    *("torch.device", "torch.serialization._get_layout"),
    *(f"{module}.{name}" for module in _BUILTINS for name in ("set", "frozenset", "complex", "slice")),
    *("builtins.range", "__builtin__.xrange"),
    *(
        f"{module}.{name}"
        for module in ("pathlib", "pathlib._local")
        for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    ),
}
_NUMBER_CODES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
_BYTE_ORDERS: dict[str, Literal["<", ">", "=", "|"]] = {"<": "<", ">": ">", "=": "=", "|": "|"}


class Placeholder:
    """Stands for an object that nothing here needs.

    Attributes:
        name: of its class.
    """

    def __init__(self, name: str) -> None:
        """Keep the name."""
        self.name = name


class NumpyType:
    """A NumPy dtype in a pickle.

    Attributes:
        dtype: None unless it is one of plain numbers.
    """

    def __init__(self, code: str) -> None:
        """Start with the machine's byte order, which the pickle sets later."""
        self.dtype = np.dtype(code) if code in _NUMBER_CODES else None


class NumpyArray:
    """A NumPy array in a pickle.

    Attributes:
        values: once the pickle has filled it; None if they are no plain numbers.
    """

    values: np.ndarray | None = None

    def fill(self, content: object, dtype: NumpyType, shape: object, order: str) -> bool:
        """Take the values from bytes; gives whether they fit the shape."""
        if not is_sizes(shape):
            return False
        if dtype.dtype is None or not isinstance(content, bytes):
            return True
        if math.prod(shape) * dtype.dtype.itemsize != len(content) or not fits_an_array(shape):
            return False
        self.values = np.frombuffer(content, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")
        return True


class Objects:
    """The Python objects that one pickle names, calls and fills."""

    def __init__(self, specs: TensorSpecs, limit: int) -> None:
        """Start with nothing made.

        Args:
            specs: checks and collects storages and tensors.
            limit: bytes that may be made out of texts; an honest pickle makes each out of a text of its own.
        """
        self._specs = specs
        self._left_to_encode = limit
        self._functions: dict[str, Callable[[tuple], Any]] = {
            "collections.OrderedDict": _ordered_dict,
            "collections.defaultdict": _default_dict,
            "torch.Size": _size,
            "torch._utils._rebuild_tensor": specs.tensor,
            "torch._utils._rebuild_tensor_v2": specs.tensor,
            "torch._utils._rebuild_tensor_v3": specs.typed_tensor,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_parameter_with_state": _parameter,
            _FROM_TYPE.name: self._from_type,
            "_codecs.encode": self._encoded,
            "numpy.dtype": _numpy_type,
            **{f"{core}.multiarray.scalar": _numpy_number for core in _NUMPY_CORES},
            **{f"{core}.multiarray._reconstruct": _empty_array for core in _NUMPY_CORES},
            **{f"{core}.numeric._frombuffer": _array for core in _NUMPY_CORES},
            **{f"{module}.bytearray": _bytes for module in _BUILTINS},
        }

    def named(self, module: str, name: str) -> GlobalName:
        """A name, if it is one of those that PyTorch's files hold.

        Raises:
            UserError: it is another.
        """
        if len(module) + len(name) > _LONGEST_NAME:
            raise UserError("expected the name of a Python object in the pickle, got an endless one")
        wanted = f"{module}.{name}"
        if wanted not in _NAMES and wanted not in _CLASSES and wanted not in self._functions:
            raise UserError(f"refused: the pickle wants the Python object {shown(wanted)}; {_REMEDY}")
        return GlobalName(wanted)

    def call(self, function: object, arguments: object) -> Any:
        """What a call would give.

        Raises:
            UserError: it is none that PyTorch writes.
        """
        if isinstance(function, GlobalName) and isinstance(arguments, tuple):
            known = self._functions.get(function.name)
            made = known(arguments) if known else NotImplemented
            if function.name in _CLASSES:
                made = Placeholder(function.name)
            if made is not NotImplemented:
                return made
        called = function.name if isinstance(function, GlobalName) else shown(function)
        raise UserError(f"refused: the pickle calls {called} in a way that PyTorch does not")

    def build(self, target: object, state: object) -> None:
        """Set the attributes of an object, as far as they matter.

        Raises:
            UserError: PyTorch does not set them.
        """
        # PyTorch hangs the versions of the modules on the dict of tensors; nobody needs them here.
        versions = isinstance(target, OrderedDict) and isinstance(state, dict) and state.keys() == {"_metadata"}
        filled = isinstance(state, tuple) and (
            (isinstance(target, NumpyType) and _set_byte_order(target, state))
            or (isinstance(target, NumpyArray) and _fill(target, state))
        )
        if not (versions or filled or isinstance(target, Placeholder)):
            raise UserError(f"refused: the pickle sets attributes of {shown(target)}")

    def _from_type(self, arguments: tuple) -> Any:
        # (function, class, its arguments, attributes): a tensor of a subclass or with attributes.
        if (
            len(arguments) != 4
            or not isinstance(arguments[0], GlobalName)
            or arguments[0].name.endswith("_from_type_v2")
        ):
            return NotImplemented
        made = self.call(arguments[0], arguments[2])
        return made if isinstance(made, TensorSpec) else NotImplemented

    def _encoded(self, arguments: tuple) -> Any:
        # How Python 3 writes bytes in protocol 2.
        if len(arguments) != 2 or not isinstance(arguments[0], str) or arguments[1] not in ("latin1", "latin-1"):
            return NotImplemented
        self._left_to_encode -= len(arguments[0])
        if self._left_to_encode < 0:
            raise UserError("the pickle makes more bytes out of texts than it holds")
        try:
            return arguments[0].encode("latin-1")
        except UnicodeEncodeError:
            return NotImplemented


def set_items(target: object, keys: list[Any], values: list[Any]) -> None:
    """Set items of a dict; those whose key is no text are left out, as no network needs them.

    Hashing other keys could take for ever: nested tuples, or numbers that were chosen to collide.

    Raises:
        UserError: there is no value for each key, a key is none, or the target is no dict.
    """
    if len(keys) != len(values) or any(isinstance(key, list | dict) for key in keys):
        raise UserError("expected pairs of a key and a value in a dict of the pickle, got others")
    if isinstance(target, dict):
        target.update((key, value) for key, value in zip(keys, values, strict=True) if type(key) is str)
    elif not isinstance(target, Placeholder):
        raise UserError(f"the pickle sets items of {shown(target)}")


def _ordered_dict(arguments: tuple) -> Any:
    made: OrderedDict[str, Any] = OrderedDict()
    if len(arguments) == 1 and isinstance(arguments[0], list):
        # As Python 2 writes it.
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in arguments[0]):
            return NotImplemented
        set_items(made, [key for key, _ in arguments[0]], [value for _, value in arguments[0]])
        return made
    return NotImplemented if arguments else made


def _default_dict(arguments: tuple) -> Any:
    fits = len(arguments) < 2 and all(one is None or isinstance(one, GlobalName) for one in arguments)
    return {} if fits else NotImplemented


def _size(arguments: tuple) -> Any:
    return arguments[0] if len(arguments) == 1 and isinstance(arguments[0], tuple) else NotImplemented


def _parameter(arguments: tuple) -> Any:
    # (tensor, requires_grad, hooks) and, with attributes, a dict of those.
    return arguments[0] if len(arguments) in (3, 4) and isinstance(arguments[0], TensorSpec) else NotImplemented


def _bytes(arguments: tuple) -> Any:
    if not arguments:
        return b""
    return arguments[0] if len(arguments) == 1 and isinstance(arguments[0], bytes) else NotImplemented


def _numpy_type(arguments: tuple) -> Any:
    return NumpyType(arguments[0]) if len(arguments) == 3 and isinstance(arguments[0], str) else NotImplemented


def _numpy_number(arguments: tuple) -> Any:
    if len(arguments) != 2 or not isinstance(arguments[0], NumpyType):
        return NotImplemented
    dtype, content = arguments[0].dtype, arguments[1]
    if dtype is None:
        return Placeholder("numpy.generic")
    if not isinstance(content, bytes) or len(content) != dtype.itemsize:
        return NotImplemented
    return np.frombuffer(content, dtype)[0].item()


def _empty_array(arguments: tuple) -> Any:
    return NumpyArray() if len(arguments) == 3 and arguments[0] == GlobalName("numpy.ndarray") else NotImplemented


def _array(arguments: tuple) -> Any:
    # (bytes, dtype, shape, order)
    if len(arguments) != 4 or not isinstance(arguments[1], NumpyType) or arguments[3] not in ("C", "F"):
        return NotImplemented
    made = NumpyArray()
    return made if made.fill(arguments[0], arguments[1], arguments[2], arguments[3]) else NotImplemented


def _set_byte_order(target: NumpyType, state: tuple) -> bool:
    # (version, byte order, and what types that are no plain numbers need)
    if len(state) < 2 or not isinstance(state[1], str) or state[1] not in _BYTE_ORDERS:
        return False
    if target.dtype is not None:
        target.dtype = target.dtype.newbyteorder(_BYTE_ORDERS[state[1]])
    return True


def _fill(target: NumpyArray, state: tuple) -> bool:
    # (version, shape, dtype, whether in Fortran's order, bytes)
    if len(state) != 5 or not isinstance(state[2], NumpyType):
        return False
    return target.fill(state[4], state[2], state[1], "F" if state[3] is True else "C")
