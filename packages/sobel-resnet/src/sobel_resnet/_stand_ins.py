"""Inert objects for what a pickle names beside tensors and plain containers. Nothing of it is imported or called."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

# A file that names one of these modules is refused, although a stand-in would do nothing: no weights need them.
_CODE_MODULES = """
    os posix nt ntpath posixpath sys subprocess shutil importlib imp runpy ctypes _ctypes socket pty commands popen2
    code codeop timeit pdb bdb cProfile profile trace webbrowser multiprocessing asyncio signal threading _thread
    marshal types pickle _pickle dill cloudpickle joblib operator _operator http urllib requests ftplib smtplib tempfile
    io _io pip ensurepip venv distutils setuptools atexit builtins
"""
_RUNS_CODE = frozenset(_CODE_MODULES.split())
_TORCH_RUNS_CODE = (
    "torch.hub.",
    "torch.jit.",
    "torch.serialization.",
    "torch.utils.cpp_extension.",
    "torch.storage._load_from_bytes",
)
_DATA_TYPES = """
    bool bytearray bytes complex dict float frozenset getattr int list object range set slice str tuple type
    Ellipsis NotImplemented xrange unicode long
"""
_HARMLESS = {f"builtins.{name}" for name in _DATA_TYPES.split()} | {
    "types.SimpleNamespace",
    "types.MappingProxyType",
    "torch.serialization._get_layout",
}


class CodeError(ValueError):
    """A pickle names something that runs code; `name` is what it names."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Global:
    """A name that a pickle asks for, such as "argparse.Namespace". There is nothing behind it."""

    def __init__(self, module: str, name: str) -> None:
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)  # Python 2
        self.name = f"{module}.{name}"
        runs_code = module.partition(".")[0] in _RUNS_CODE or self.name.startswith(_TORCH_RUNS_CODE)
        if runs_code and self.name not in _HARMLESS:
            raise CodeError(self.name)


class StandIn(dict[Any, Any]):
    """An object of a class that was not loaded: a dict of its items, and the parts it was to be made of.

    Args:
        name: Name of the class or function that the file asks for.
        parts: What the file passes to it; kept only to tell whether tensors are inside.
    """

    def __init__(self, name: str, *parts: Any) -> None:
        super().__init__()
        self.name = name
        self.parts = list(parts)


def hides_tensors(content: Any) -> str | None:
    """Return the name of the outermost stand-in of which a tensor is a part, or None if there is none."""
    return next((outer for value, outer in _walk(content) if outer and isinstance(value, Tensor)), None)


def holds_arrays(content: Any) -> bool:
    """Tell whether a NumPy array with more than one axis is somewhere in what a pickle made."""
    stand_ins = (value for value, _ in _walk(content) if isinstance(value, StandIn) and value.name.startswith("numpy"))
    return any(_n_axes(value) > 1 for value in stand_ins)


def _n_axes(array: StandIn) -> int:
    """Number of axes from the state of an array: version, shape, dtype, order, bytes."""
    state = array.parts[-1] if array.parts else None
    return len(state[1]) if isinstance(state, tuple) and len(state) == 5 and isinstance(state[1], tuple) else 0


def _walk(content: Any) -> Iterator[tuple[Any, str | None]]:
    """Yield every value inside, once, with the name of the outermost stand-in around it."""
    seen: set[int] = set()
    todo: list[tuple[Any, str | None]] = [(content, None)]
    while todo:
        value, outer = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield value, outer
        if isinstance(value, StandIn):
            todo.extend((part, outer or value.name) for part in value.parts)
        if isinstance(value, dict):
            todo.extend((inner, outer) for inner in dict.values(value))
        elif isinstance(value, list | tuple):
            todo.extend((inner, outer) for inner in value)
