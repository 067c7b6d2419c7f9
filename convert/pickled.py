"""A reader for the pickles that PyTorch writes, and for no others.

Python's own unpickler imports and calls what the pickle names, sets attributes as it says, and
reserves the memory that it asks for. This one knows the two dozen opcodes of PyTorch's default
protocol, builds nothing but plain values and `TensorSpec`s, and refuses the rest by name.
"""

import pickle
import pickletools
import struct
from collections import OrderedDict
from typing import Any

from advx_jax.errors import UserError
from advx_jax.messages import shown

from .tensor_specs import STORAGE_TYPES, GlobalName, TensorSpec, TensorSpecs

PREPROCESS = GlobalName("__main__.cifar10_preprocess")
"""A function that the published networks carry in their options; it stays a name."""

_ORDERED_DICT = GlobalName("collections.OrderedDict")
_TENSOR = GlobalName("torch._utils._rebuild_tensor_v2")
_PARAMETER = GlobalName("torch._utils._rebuild_parameter")
_ALLOWED = {PREPROCESS, _ORDERED_DICT, _TENSOR, _PARAMETER, *map(GlobalName, STORAGE_TYPES)}

_PROTOCOL = 2
# The published pickles take 11,000; the bound keeps the objects made small beside the file.
_MOST_OPCODES = 1_000_000
_LONGEST_GLOBAL = 200
_NAMES = {opcode.code.encode("latin-1"): opcode.name for opcode in pickletools.opcodes}
_CONSTANTS: dict[bytes, Any] = {pickle.NONE: None, pickle.NEWTRUE: True, pickle.NEWFALSE: False, pickle.EMPTY_TUPLE: ()}
_NUMBERS = {pickle.BININT: "<i", pickle.BININT1: "<B", pickle.BININT2: "<H", pickle.BINFLOAT: ">d"}
_SHORT_TUPLES = {pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}


def unpickle(data: bytes, start: int, specs: TensorSpecs) -> tuple[object, int]:
    """Read one pickle.

    Args:
        data: bytes that hold the pickle.
        start: where it begins.
        specs: checks and collects the storages and tensors that it describes.

    Returns:
        The object, made of None, bools, numbers, strings, tuples, lists, dicts with strings as
        keys, `GlobalName`s and `TensorSpec`s; and the position after the pickle.

    Raises:
        UserError: the pickle is damaged or holds anything else.
    """
    return _Reader(data, start, specs).read()


class _Reader:
    """The stack machine that a pickle is a program for."""

    def __init__(self, data: bytes, start: int, specs: TensorSpecs) -> None:
        self._data = data
        self._position = start
        self._specs = specs
        self._stack: list[Any] = []
        self._outer_stacks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def read(self) -> tuple[object, int]:
        """Run to the end of the pickle."""
        if self._take(2) != pickle.PROTO + bytes([_PROTOCOL]):
            raise UserError(f"expected a pickle of protocol {_PROTOCOL}, which PyTorch writes, got something else")
        for _ in range(_MOST_OPCODES):
            opcode = self._take(1)
            if opcode == pickle.STOP:
                result = self._pop()
                if self._stack or self._outer_stacks:
                    raise UserError("the pickle ends with values left over")
                return result, self._position
            self._step(opcode)
        raise UserError(f"expected a pickle of at most {_MOST_OPCODES} steps, got a longer one")

    def _step(self, opcode: bytes) -> None:
        stack = self._stack
        if opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in _NUMBERS:
            stack.extend(self._numbers(_NUMBERS[opcode]))
        elif opcode == pickle.LONG1:
            stack.append(int.from_bytes(self._take(self._take(1)[0]), "little", signed=True))
        elif opcode == pickle.BINUNICODE:
            stack.append(self._text(self._take(*self._numbers("<I"))))
        elif opcode == pickle.EMPTY_LIST:
            stack.append([])
        elif opcode == pickle.EMPTY_DICT:
            stack.append({})
        elif opcode == pickle.MARK:
            self._outer_stacks.append(stack)
            self._stack = []
        elif opcode == pickle.TUPLE:
            items = self._since_mark()
            self._stack.append(tuple(items))
        elif opcode in _SHORT_TUPLES:
            items = [self._pop() for _ in range(_SHORT_TUPLES[opcode])]
            stack.append(tuple(reversed(items)))
        elif opcode == pickle.APPEND:
            self._append([self._pop()])
        elif opcode == pickle.APPENDS:
            self._append(self._since_mark())
        elif opcode == pickle.SETITEM:
            value = self._pop()
            self._set_items([self._pop(), value])
        elif opcode == pickle.SETITEMS:
            self._set_items(self._since_mark())
        elif opcode == pickle.BINPUT:
            self._memo[self._take(1)[0]] = self._top()
        elif opcode == pickle.LONG_BINPUT:
            self._memo[self._numbers("<I")[0]] = self._top()
        elif opcode == pickle.BINGET:
            stack.append(self._remembered(self._take(1)[0]))
        elif opcode == pickle.LONG_BINGET:
            stack.append(self._remembered(self._numbers("<I")[0]))
        elif opcode == pickle.GLOBAL:
            stack.append(self._global())
        elif opcode == pickle.BINPERSID:
            stack.append(self._specs.storage(self._pop()))
        elif opcode == pickle.REDUCE:
            arguments = self._pop()
            stack.append(self._call(self._pop(), arguments))
        elif opcode == pickle.BUILD:
            self._build(self._pop())
        else:
            name = _NAMES.get(opcode, f"number {opcode[0]}")
            raise UserError(f"expected a pickle of tensors and plain values, got the opcode {name}")

    def _take(self, n_bytes: int) -> bytes:
        end = self._position + n_bytes
        if end > len(self._data):
            raise UserError("the pickle is cut off")
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def _numbers(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))

    def _text(self, encoded: bytes) -> str:
        try:
            return encoded.decode()
        except UnicodeDecodeError as error:
            raise UserError("expected text in UTF-8 in the pickle, got other bytes") from error

    def _top(self) -> Any:
        if not self._stack:
            raise UserError("the pickle takes a value that is not there")
        return self._stack[-1]

    def _pop(self) -> Any:
        value = self._top()
        self._stack.pop()
        return value

    def _since_mark(self) -> list[Any]:
        if not self._outer_stacks:
            raise UserError("the pickle closes a group that it has not opened")
        items = self._stack
        self._stack = self._outer_stacks.pop()
        return items

    def _remembered(self, index: int) -> Any:
        if index not in self._memo:
            raise UserError(f"the pickle refers to its value number {index}, which is not there")
        return self._memo[index]

    def _append(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, list):
            raise UserError(f"the pickle appends to {shown(target)}")
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict):
            raise UserError(f"the pickle sets items of {shown(target)}")
        keys = items[::2]
        # Only strings: hashing nested tuples can take for ever.
        if len(items) % 2 or not all(isinstance(key, str) for key in keys):
            raise UserError("expected pairs of a string and a value in a dict of the pickle, got others")
        target.update(zip(keys, items[1::2], strict=True))

    def _global(self) -> GlobalName:
        end = self._position
        for _ in range(2):
            end = self._data.find(b"\n", end, self._position + _LONGEST_GLOBAL) + 1
            if not end:
                raise UserError("expected the name of a Python object in the pickle, got other bytes")
        module, name, _ = self._text(self._take(end - self._position)).split("\n")
        wanted = GlobalName(f"{module}.{name}")
        if wanted not in _ALLOWED:
            raise UserError(f"refused: the pickle wants the Python object {shown(wanted.name)}")
        return wanted

    def _call(self, function: object, arguments: object) -> OrderedDict | TensorSpec:
        if isinstance(arguments, tuple):
            if function == _ORDERED_DICT and not arguments:
                return OrderedDict()
            if function == _TENSOR:
                return self._specs.tensor(arguments)
            # (tensor, requires_grad, hooks)
            if function == _PARAMETER and len(arguments) == 3 and isinstance(arguments[0], TensorSpec):
                return arguments[0]
        called = function.name if isinstance(function, GlobalName) else shown(function)
        raise UserError(f"refused: the pickle calls {called} in a way that PyTorch does not")

    def _build(self, state: object) -> None:
        # PyTorch hangs the versions of the modules on the dict of tensors; nobody needs them here.
        target = self._top()
        if not isinstance(target, OrderedDict) or not isinstance(state, dict) or state.keys() != {"_metadata"}:
            raise UserError(f"refused: the pickle sets attributes of {shown(target)}")
