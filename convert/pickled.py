"""A reader for the pickles that PyTorch writes, and for no others.

Python's own unpickler imports and calls what the pickle names, sets attributes as it says, and
reserves the memory that it asks for. This one knows the opcodes of protocols 2 to 5 that build
values, makes nothing but plain values, `TensorSpec`s and placeholders (`pickled_objects`), and
refuses the rest by name.
"""

import pickle
import pickletools
import struct
from typing import Any

from advx_jax.errors import UserError
from advx_jax.messages import shown

from .pickled_objects import Objects, Placeholder, set_items
from .tensor_specs import GlobalName, TensorSpecs

_PROTOCOLS = range(2, 6)
# The published pickles take 11,000; the bound keeps the objects made small beside the file.
_MOST_OPCODES = 1_000_000
_LONGEST_GLOBAL = 200
_NAMES = {opcode.code.encode("latin-1"): opcode.name for opcode in pickletools.opcodes}
_CONSTANTS: dict[bytes, Any] = {pickle.NONE: None, pickle.NEWTRUE: True, pickle.NEWFALSE: False, pickle.EMPTY_TUPLE: ()}
_NUMBERS = {pickle.BININT: "<i", pickle.BININT1: "<B", pickle.BININT2: "<H", pickle.BINFLOAT: ">d"}
_SHORT_TUPLES = {pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}
# With the number that says how many bytes follow. The text of Python 2 has other names.
_TEXTS = {
    **{pickle.SHORT_BINUNICODE: "<B", pickle.BINUNICODE: "<I", pickle.BINUNICODE8: "<Q"},
    **{pickle.SHORT_BINSTRING: "<B", pickle.BINSTRING: "<i"},
}
_BYTES = {pickle.SHORT_BINBYTES: "<B", pickle.BINBYTES: "<I", pickle.BINBYTES8: "<Q", pickle.BYTEARRAY8: "<Q"}
_LONGS = {pickle.LONG1: "<B", pickle.LONG4: "<i"}
_PUTS = {pickle.BINPUT: "<B", pickle.LONG_BINPUT: "<I"}
_GETS = {pickle.BINGET: "<B", pickle.LONG_BINGET: "<I"}


def unpickle(data: bytes, start: int, specs: TensorSpecs) -> tuple[object, int]:
    """Read one pickle.

    Args:
        data: bytes that hold the pickle.
        start: where it begins.
        specs: checks and collects the storages and tensors that it describes.

    Returns:
        The object, made of None, bools, numbers, strings, bytes, tuples, lists, dicts with strings as
        keys (items with other keys are left out), `GlobalName`s, `TensorSpec`s, `NumpyArray`s, and
        `Placeholder`s for objects that nothing here needs; and the position after the pickle.

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
        self._objects = Objects(specs, limit=len(data))
        self._stack: list[Any] = []
        self._outer_stacks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def read(self) -> tuple[object, int]:
        """Run to the end of the pickle."""
        if self._take(1) != pickle.PROTO or self._take(1)[0] not in _PROTOCOLS:
            raise UserError(
                f"expected a pickle of protocol {_PROTOCOLS[0]} to {_PROTOCOLS[-1]}, which PyTorch writes, "
                "got something else"
            )
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
        if self._pushes_plain(opcode) or self._uses_memo(opcode) or self._fills(opcode):
            return
        stack = self._stack
        if opcode == pickle.MARK:
            self._outer_stacks.append(stack)
            self._stack = []
        elif opcode == pickle.GLOBAL:
            stack.append(self._global())
        elif opcode == pickle.STACK_GLOBAL:
            name, module = self._pop(), self._pop()
            if not isinstance(name, str) or not isinstance(module, str):
                raise UserError("expected the name of a Python object in the pickle, got something else")
            stack.append(self._objects.named(module, name))
        elif opcode == pickle.BINPERSID:
            stack.append(self._specs.storage(self._pop()))
        elif opcode in (pickle.REDUCE, pickle.NEWOBJ):
            arguments = self._pop()
            stack.append(self._objects.call(self._pop(), arguments))
        elif opcode == pickle.BUILD:
            state = self._pop()
            self._objects.build(self._top(), state)
        elif opcode == pickle.FRAME:
            # Only helps those who read from a stream.
            self._check_ahead(*self._numbers("<Q"))
        else:
            name = _NAMES.get(opcode, f"number {opcode[0]}")
            raise UserError(f"expected a pickle of tensors and plain values, got the opcode {name}")

    def _pushes_plain(self, opcode: bytes) -> bool:
        """Whether the opcode is one that puts a plain value on the stack, which is then done."""
        value: Any
        if opcode in _CONSTANTS:
            value = _CONSTANTS[opcode]
        elif opcode in _NUMBERS:
            (value,) = self._numbers(_NUMBERS[opcode])
        elif opcode in _LONGS:
            value = int.from_bytes(self._block(_LONGS[opcode]), "little", signed=True)
        elif opcode in _TEXTS:
            value = self._text(self._block(_TEXTS[opcode]))
        elif opcode in _BYTES:
            value = self._block(_BYTES[opcode])
        elif opcode == pickle.EMPTY_LIST:
            value = []
        elif opcode == pickle.EMPTY_DICT:
            value = {}
        elif opcode == pickle.EMPTY_SET:
            value = Placeholder("builtins.set")
        elif opcode == pickle.FROZENSET:
            self._since_mark()
            value = Placeholder("builtins.frozenset")
        elif opcode == pickle.TUPLE:
            value = tuple(self._since_mark())
        elif opcode in _SHORT_TUPLES:
            value = tuple(reversed([self._pop() for _ in range(_SHORT_TUPLES[opcode])]))
        else:
            return False
        self._stack.append(value)
        return True

    def _uses_memo(self, opcode: bytes) -> bool:
        """Whether the opcode is one that remembers or recalls a value, which is then done."""
        if opcode in _PUTS:
            (index,) = self._numbers(_PUTS[opcode])
            # Python counts them; numbers from anywhere could be chosen to collide in the dict.
            if index >= _MOST_OPCODES:
                raise UserError(f"expected at most {_MOST_OPCODES} remembered values in the pickle, got more")
            self._memo[index] = self._top()
        elif opcode == pickle.MEMOIZE:
            self._memo[len(self._memo)] = self._top()
        elif opcode in _GETS:
            (index,) = self._numbers(_GETS[opcode])
            if index not in self._memo:
                raise UserError(f"the pickle refers to its value number {index}, which is not there")
            self._stack.append(self._memo[index])
        else:
            return False
        return True

    def _fills(self, opcode: bytes) -> bool:
        """Whether the opcode is one that puts values into a container, which is then done."""
        if opcode in (pickle.APPEND, pickle.APPENDS):
            items = [self._pop()] if opcode == pickle.APPEND else self._since_mark()
            target = self._top()
            if isinstance(target, list):
                target.extend(items)
            elif not isinstance(target, Placeholder):
                raise UserError(f"the pickle appends to {shown(target)}")
        elif opcode == pickle.ADDITEMS:
            self._since_mark()
            target = self._top()
            if not isinstance(target, Placeholder):
                raise UserError(f"the pickle adds members to {shown(target)}")
        elif opcode in (pickle.SETITEM, pickle.SETITEMS):
            items = [self._pop(), self._pop()][::-1] if opcode == pickle.SETITEM else self._since_mark()
            set_items(self._top(), items[::2], items[1::2])
        else:
            return False
        return True

    def _take(self, n_bytes: int) -> bytes:
        self._check_ahead(n_bytes)
        taken = self._data[self._position : self._position + n_bytes]
        self._position += n_bytes
        return taken

    def _check_ahead(self, n_bytes: int) -> None:
        if not 0 <= n_bytes <= len(self._data) - self._position:
            raise UserError("the pickle is cut off")

    def _block(self, layout: str) -> bytes:
        """Bytes behind their number."""
        return self._take(*self._numbers(layout))

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

    def _global(self) -> GlobalName:
        end = self._position
        for _ in range(2):
            end = self._data.find(b"\n", end, self._position + _LONGEST_GLOBAL) + 1
            if not end:
                raise UserError("expected the name of a Python object in the pickle, got other bytes")
        module, name, _ = self._text(self._take(end - self._position)).split("\n")
        return self._objects.named(module, name)
