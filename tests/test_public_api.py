"""What the packages offer is frozen in tests/public_api/<package>.txt: names, signatures, methods, properties.

A change of these lists is a change of the public API: it belongs into the package's CHANGELOG.md.
`uv run python tests/test_public_api.py --update` writes the lists anew.
"""

import difflib
import enum
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

ROOT = Path(__file__).parent.parent
LISTS = Path(__file__).parent / "public_api"
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
UPDATE = "uv run python tests/test_public_api.py --update"
MODULES = re.compile(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])")
NDARRAY = re.compile(r"ndarray\[tuple\[Any, \.\.\.\], dtype\[([^\[\]]*)\]\]")  # what NDArray[...] is before NumPy 2.5


@pytest.mark.parametrize("package", PACKAGES)
def test_the_public_api_is_the_frozen_one(package: str) -> None:
    path = LISTS / f"{package}.txt"
    frozen = path.read_text().splitlines() if path.exists() else []
    found = list(public_api(package))
    name = path.relative_to(ROOT).as_posix()
    diff = "\n".join(difflib.unified_diff(frozen, found, name, f"packages/{package}", n=0, lineterm=""))
    if diff:
        pytest.fail(f"{diff}\n\nIf the change is meant, renew the list:\n    {UPDATE}", pytrace=False)


def test_every_list_has_a_package() -> None:
    assert {path.stem for path in LISTS.glob("*.txt")} <= set(PACKAGES)


def public_api(package: str) -> Iterator[str]:
    """One line for each public name, and one for each public method and property of a class."""
    module = importlib.import_module(package.replace("-", "_"))
    for name in sorted(_public_names(module)):
        value = getattr(module, name)
        if inspect.isclass(value):
            yield from _class_lines(name, value, module.__name__)
        elif callable(value) and not isinstance(value, ModuleType):
            yield name + _signature(value)
        else:
            yield f"{name}: {type(value).__name__}"


def _public_names(module: ModuleType) -> list[str]:
    """`__all__`, or else what the package defines itself and names without an underscore."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return [name for name, value in own.items() if _is_of(module.__name__, value)]


def _is_of(package: str, value: object) -> bool:
    if isinstance(value, ModuleType):
        return False
    home = getattr(value, "__module__", package)
    return home == package or home.startswith(f"{package}.")


def _class_lines(name: str, cls: type, package: str) -> Iterator[str]:
    if issubclass(cls, enum.Enum):
        yield f"{name}: enum of {', '.join(member.name for member in cls)}"
    elif issubclass(cls, BaseException):
        yield f"{name}: {', '.join(base.__name__ for base in cls.__bases__)}"
    else:
        yield name + _signature(cls)
    members: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        if _is_of(package, base):  # what torch's or Python's own classes add is theirs to change
            members.update(vars(base))
    for member, value in sorted(members.items()):
        if member.startswith("_"):
            continue
        if isinstance(value, property):
            returned = _signature(value.fget).partition(" -> ")[2] if value.fget else ""
            yield f"{name}.{member}: {returned or 'property'}"
        elif isinstance(value, classmethod | staticmethod) or inspect.isfunction(value):
            bound = not isinstance(value, staticmethod)
            function = value if inspect.isfunction(value) else value.__func__
            yield f"{name}.{member}{_signature(function, skip_first=bound)}"


def _signature(value: Any, *, skip_first: bool = False) -> str:
    """As written in the source: the same under every Python, whose own `str(signature)` is not."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return "(...)"
    written, parameters = [], list(signature.parameters.values())[skip_first:]
    starred = False
    for index, one in enumerate(parameters):
        if one.kind is one.KEYWORD_ONLY and not starred:
            written.append("*")
            starred = True
        starred = starred or one.kind is one.VAR_POSITIONAL
        text = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "") + one.name
        typed = one.annotation is not one.empty
        text += f": {_annotation(one.annotation)}" if typed else ""
        if one.default is not one.empty:
            text += f" = {_default(one.default)}" if typed else f"={_default(one.default)}"
        written.append(text)
        last = index + 1 == len(parameters) or parameters[index + 1].kind is not one.POSITIONAL_ONLY
        if one.kind is one.POSITIONAL_ONLY and last:
            written.append("/")
    returned = signature.return_annotation
    constructs = inspect.isclass(value) or returned is signature.empty
    return f"({', '.join(written)})" + ("" if constructs else f" -> {_annotation(returned)}")


def _annotation(value: object) -> str:
    """Names without their modules, which may be private and change place."""
    text = value if isinstance(value, str) else getattr(value, "__forward_arg__", None)
    if text is None:
        text = value.__qualname__ if inspect.isclass(value) and not get_args(value) else repr(value)
    return NDARRAY.sub(r"NDArray[\1]", MODULES.sub("", text))


def _default(value: object) -> str:
    """As written, where that is short and holds no address; else the name or the type."""
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_default, value)) + ("," if len(value) == 1 else "") + ")"
    if callable(value):
        return str(getattr(value, "__qualname__", type(value).__name__))
    text = repr(value)
    return text if len(text) < 40 and " at 0x" not in text else f"{type(value).__name__}(...)"


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        sys.exit(f"usage: {UPDATE}")
    LISTS.mkdir(exist_ok=True)
    for left in LISTS.glob("*.txt"):
        left.unlink()
    for one in PACKAGES:
        (LISTS / f"{one}.txt").write_text("\n".join(public_api(one)) + "\n")
