"""Read plain data out of a pickle without running anything in it.

Python's own unpickler calls what the file names. This one only understands the opcodes that build
numbers, text, lists, tuples, dictionaries and arrays of bytes; nothing is ever looked up or called.
"""

import enum
import pickletools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np


class PickleRefusedError(ValueError):
    """The pickle is damaged, or asks for more than plain data."""


class PickledBytes:
    """An array of bytes inside a pickle; `values` is there once the file has filled it."""

    values: np.ndarray | None = None


class _Known(enum.Enum):
    """What a file may name; each name stands for itself and leads to no function."""

    RECONSTRUCT = enum.auto()
    NDARRAY = enum.auto()
    DTYPE = enum.auto()
    ENCODE = enum.auto()


class _ByteType:
    """The element type uint8."""


_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"): _Known.RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _Known.RECONSTRUCT,
    ("numpy", "ndarray"): _Known.NDARRAY,
    ("numpy", "dtype"): _Known.DTYPE,
    # How Python 3 writes bytes in protocol 2.
    ("_codecs", "encode"): _Known.ENCODE,
}
_VALUES = {
    *("BININT", "BININT1", "BININT2", "INT", "LONG1", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# A small file can name one text many times over; no honest batch encodes more than this.
_MOST_ENCODED = 2**28


def read_plain_pickle(data: bytes) -> Any:
    """Read the one object in a pickle of plain data.

    Python 2 strings come back as bytes, arrays of uint8 as `PickledBytes`.

    Raises:
        PickleRefusedError: the pickle is damaged, or wants anything else; the message says what.
    """
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            # Of escapes in names, which no name that is allowed has.
            warnings.simplefilter("ignore")
            for opcode, argument, _ in pickletools.genops(data):
                if opcode.name == "STOP":
                    return machine.pop()
                machine.step(opcode.name, argument)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise PickleRefusedError(str(error) or type(error).__name__) from error
    raise PickleRefusedError("it ends too early")


class _Machine:
    """Stack and memo of a pickle, as the protocol describes them."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._encoded = 0
        self._actions: dict[str, Callable[[Any], None]] = {
            "PROTO": lambda _: None,
            "FRAME": lambda _: None,
            "MARK": lambda _: self._mark(),
            "EMPTY_LIST": lambda _: self._stack.append([]),
            "EMPTY_DICT": lambda _: self._stack.append({}),
            "TUPLE": lambda _: self._stack_tuple(self._pop_to_mark()),
            "APPEND": lambda _: self._extend([self.pop()]),
            "APPENDS": lambda _: self._extend(self._pop_to_mark()),
            "SETITEM": lambda _: self._set_items([self.pop(), self.pop()][::-1]),
            "SETITEMS": lambda _: self._set_items(self._pop_to_mark()),
            "SHORT_BINSTRING": lambda text: self._stack.append(text.encode("latin-1")),
            "BINSTRING": lambda text: self._stack.append(text.encode("latin-1")),
            "MEMOIZE": lambda _: self._remember(len(self._memo)),
            "BINPUT": self._remember,
            "LONG_BINPUT": self._remember,
            "BINGET": lambda index: self._stack.append(self._memo[index]),
            "LONG_BINGET": lambda index: self._stack.append(self._memo[index]),
            "GLOBAL": lambda names: self._name(tuple(names.split(" "))),
            "STACK_GLOBAL": lambda _: self._name((self.pop(), self.pop())[::-1]),
            "REDUCE": lambda _: self._reduce(self.pop(), self.pop()),
            "BUILD": lambda _: self._build(self.pop()),
        }

    def step(self, name: str, argument: Any) -> None:
        """Do what one opcode says."""
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            self._stack_tuple([self.pop() for _ in range(_TUPLES[name])][::-1])
        elif name in self._actions:
            self._actions[name](argument)
        else:
            raise PickleRefusedError(f"it uses {name}, which is no plain data")

    def pop(self) -> Any:
        """Take the topmost object."""
        return self._stack.pop()

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _pop_to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _stack_tuple(self, items: list[Any]) -> None:
        self._stack.append(tuple(items))

    def _remember(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise PickleRefusedError("it appends to what is no list")
        self._stack[-1].extend(items)

    def _set_items(self, items: list[Any]) -> None:
        keys = items[::2]
        # Only flat keys: hashing a deeply nested one would overrun the C stack.
        if not isinstance(self._stack[-1], dict) or not all(isinstance(key, str | bytes | int) for key in keys):
            raise PickleRefusedError("it fills a dictionary in an unknown way")
        self._stack[-1].update(zip(keys, items[1::2], strict=True))

    def _name(self, names: tuple[Any, ...]) -> None:
        # Text only, for the same reason as in `_set_items`.
        if not all(isinstance(part, str) for part in names):
            raise PickleRefusedError("it names something by what is no text")
        if names not in _GLOBALS:
            raise PickleRefusedError(f"it names {'.'.join(names)[:80]!r}, which is no plain data")
        self._stack.append(_GLOBALS[names])

    def _reduce(self, arguments: Any, named: Any) -> None:
        match named, arguments:
            case _Known.RECONSTRUCT, (_Known.NDARRAY, _, _):
                self._stack.append(PickledBytes())
            case _Known.DTYPE, ("u1" | b"u1", _, _):
                self._stack.append(_ByteType())
            case _Known.ENCODE, (str() as text, "latin1"):
                self._encoded += len(text)
                if self._encoded > _MOST_ENCODED:
                    raise PickleRefusedError("it is far larger than any batch")
                self._stack.append(text.encode("latin-1"))
            case _:
                raise PickleRefusedError("it makes an object that is no plain data")

    def _build(self, state: Any) -> None:
        match self._stack[-1], state:
            case _ByteType(), tuple():
                pass  # Byte order and alignment, which a single byte has not.
            case PickledBytes() as array, (_, tuple() as shape, _ByteType(), fortran_order, bytes() as raw):
                array.values = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran_order else "C")
            case _:
                raise PickleRefusedError("it sets the state of an object that is no plain data")
