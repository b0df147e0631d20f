"""Read the pickle of a torch file without running anything: a stack machine that rebuilds dense tensors and no more.

`pickletools` splits the bytes into instructions. Whatever they name becomes a `StandIn`. Sizes that a file claims are
not allocated, nothing recurses, and what is read is kept by reference or copied once, so the cost is that of the bytes.
"""

import pickletools
from collections.abc import Callable
from typing import IO, Any

import torch
from torch import Tensor

from ._stand_ins import CodeError, Global, StandIn

Storage = Callable[[torch.dtype, str, int], Tensor | None]
"""Returns the numbers (numel,) of a storage from dtype, key and numel, or None if they are not wanted."""

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_VALUE_OPCODES = """
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE
    SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
"""
_VALUES = frozenset(_VALUE_OPCODES.split())
_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": list,  # a set would hash what the file holds
}
_PARAMETERS = (
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch.nn.parameter.Parameter",  # before torch 0.4
)
_DICTS = ("collections.OrderedDict", "collections.Counter", "builtins.dict")
_KEYS = (str, float, bytes, type(None))  # and integers of 64 bits, since long ones are hashed anew each time
_MAX_STEPS = 5_000_000  # instructions; checkpoints have thousands, and one million takes a second or two
_MAX_NAME = 1_000  # characters
_MAX_UNWRAPPED = 8  # tensors of a subclass inside each other


def read_pickle(file: IO[bytes], storage: Storage) -> Any:
    """Read one pickled object and leave the file behind its end.

    Returns plain values, lists, tuples, dicts, tensors, and stand-ins for the rest. Sets become lists. Raises CodeError
    if the pickle names something that runs code, and errors of many kinds if it is damaged.
    """
    return _Machine(storage).run(file)


class _Machine:
    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below the marks
        self.memo: dict[int, Any] = {}
        self.n_steps = 0
        self.n_copied = 0

    def run(self, file: IO[bytes]) -> Any:
        for opcode, argument, _ in pickletools.genops(file):
            name = opcode.name
            self.n_steps += 1
            if self.n_steps > _MAX_STEPS:
                raise ValueError(f"a pickle of more than {_MAX_STEPS:,} instructions")
            if name == "STOP":
                return self.stack.pop()
            if name in _VALUES:
                self.stack.append(argument)
            elif name in _NEW:
                self.stack.append(_NEW[name]())
            else:
                self._step(name, argument)
        raise ValueError("the pickle has no end")

    def _marked(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def _step(self, name: str, argument: Any) -> None:
        pop = self.stack.pop
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self.outer.append(self.stack)
                self.stack = []
            case "POP":
                pop() if self.stack else self._marked()
            case "POP_MARK":
                self._marked()
            case "DUP":
                self.stack.append(self.stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                n = int(name[-1])
                self.stack[-n:] = [tuple(self.stack[-n:])]
            case "TUPLE":
                items = self._marked()
                self.stack.append(tuple(items))
            case "LIST" | "FROZENSET":
                items = self._marked()
                self.stack.append(items)
            case "DICT":
                items = self._marked()
                self.stack.append({})
                self._set(items)
            case "APPEND":
                self._extend([pop()])
            case "APPENDS" | "ADDITEMS":
                self._extend(self._marked())
            case "SETITEM":
                value, key = pop(), pop()
                self._set([key, value])
            case "SETITEMS":
                self._set(self._marked())
            case "GLOBAL":
                self.stack.append(_global(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = pop(), pop()
                self.stack.append(_global(module, attribute))
            case "REDUCE" | "NEWOBJ":
                arguments, function = pop(), pop()
                self.stack.append(self._call(function, arguments))
            case "NEWOBJ_EX":
                keywords, arguments, function = pop(), pop(), pop()
                made = self._call(function, arguments)
                if isinstance(made, StandIn):
                    made.parts.append(keywords)
                self.stack.append(made)
            case "INST":
                items = self._marked()
                self.stack.append(self._call(_global(*argument.split(" ", 1)), tuple(items)))
            case "OBJ":
                function, *items = self._marked()
                self.stack.append(self._call(function, tuple(items)))
            case "BUILD":
                state = pop()
                if isinstance(self.stack[-1], StandIn):
                    self.stack[-1].parts.append(state)
            case "BINPERSID":
                self.stack.append(self._load_storage(pop()))
            case _:  # PERSID, the extension registry and buffers outside the file
                raise ValueError(f"a pickle with {name}")

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        (target.parts if isinstance(target, StandIn) else target).extend(items)

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise TypeError("items are set in something else than a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Other keys, such as tuples, are hashed in exponential time where they are nested.
            is_key = isinstance(key, _KEYS) or (isinstance(key, int) and key.bit_length() <= 64)
            dict.__setitem__(target, key if is_key else f"<{type(key).__name__}>", value)

    def _call(self, function: Any, arguments: Any) -> Any:
        """Return a tensor for torch's rebuilding functions, otherwise a stand-in; only dense tensors have values."""
        if not isinstance(arguments, tuple):  # a list could hold itself
            raise TypeError("arguments are not a tuple")
        if isinstance(function, StandIn):  # what it makes is unknown; the rules below are for named functions
            return StandIn(f"{function.name.removesuffix('()')}()", arguments)
        for _ in range(_MAX_UNWRAPPED):
            name = function.name if isinstance(function, Global) else type(function).__name__
            if name != "torch._tensor._rebuild_from_type_v2":  # a tensor of a subclass or with attributes
                break
            function, arguments = arguments[0], arguments[2]
            if not isinstance(function, Global) or not isinstance(arguments, tuple):
                raise TypeError("a tensor is not rebuilt from a function and a tuple")
        else:
            raise ValueError(f"more than {_MAX_UNWRAPPED} tensors of a subclass inside each other")
        # Members of an Enum are attributes of a class. Those of an object, such as the methods of a path, are not data.
        if name == "builtins.getattr" and not isinstance(arguments[0], Global):
            raise CodeError(name)
        if name in _PARAMETERS:
            return arguments[0]
        if name in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
            storage, offset, size, stride, *rest = arguments[:7]
            if isinstance(storage, Tensor) and not _is_flipped(rest):
                if not (_are_integers((offset,)) and _are_integers(size) and _are_integers(stride)):
                    raise TypeError("a tensor's place or shape is not made of integers")
                # Torch checks that this stays inside the storage.
                return storage.as_strided(size, stride, storage.storage_offset() + offset)
        if name.startswith("torch._utils._rebuild_"):  # sparse, quantized and other tensors that no backbone has
            return torch.empty(0, device="meta")
        if name in ("copyreg._reconstructor", "copyreg.__newobj__") and isinstance(arguments[0], Global):
            name = arguments[0].name
        if name in _DICTS and arguments:  # Python 2 passes pairs to OrderedDict, Counter passes a dict
            return self._filled(name, arguments[0])
        return StandIn(name, arguments)

    def _filled(self, name: str, content: Any) -> StandIn:
        made = StandIn(name)
        # Each pair took an instruction, unless the same pairs are asked for again and again.
        self.n_copied += len(content)
        if self.n_copied > self.n_steps:
            raise ValueError("a pickle that copies the same items many times")
        self.stack.append(made)
        for pair in dict.items(content) if isinstance(content, dict) else content:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise TypeError("a dict is not made of pairs")
            self._set(list(pair))
        self.stack.pop()
        return made

    def _load_storage(self, identity: Any) -> Any:
        if not isinstance(identity, tuple):
            raise TypeError("a storage is not named by a tuple")
        if identity[0] in ("module", b"module"):  # the class of a pickled model, with its source, before torch 1.6
            return identity[1]
        kind, dtype, key, _, numel, *view = identity[:6]
        if kind not in ("storage", b"storage"):
            raise ValueError("a storage of an unknown kind")
        if not isinstance(key, str | int | bytes) or not isinstance(numel, int):
            raise TypeError("a storage's key or length is neither text nor a number")
        known = _DTYPES.get(dtype.name.rpartition(".")[2]) if isinstance(dtype, Global) else None
        found = None if known is None else self.storage(known, str(key), numel)
        if found is not None and any(part is not None for part in view):  # a part of a storage, before torch 0.4
            _, start, length = view[0]
            if not _are_integers((start, length)):
                raise TypeError("a part of a storage is not given by integers")
            return found[start : start + length]
        return StandIn("a storage", dtype) if found is None else found


def _global(module: Any, name: Any) -> Global:
    # Text of nested objects would take exponential time, and a long name is repeated at the cost of three bytes.
    if not isinstance(module, str) or not isinstance(name, str):
        raise TypeError("a name is not text")
    if len(module) + len(name) > _MAX_NAME:
        raise ValueError("a name is too long")
    return Global(module, name)


def _are_integers(values: Any) -> bool:
    return isinstance(values, tuple | list) and len(values) <= 64 and all(isinstance(value, int) for value in values)


def _is_flipped(rest: list[Any]) -> bool:
    """Tell from the last arguments of a tensor whether its numbers are stored conjugated or with the other sign."""
    about = rest[2] if len(rest) > 2 else None
    return isinstance(about, dict) and any(dict.get(about, bit) for bit in ("conj", "neg"))
