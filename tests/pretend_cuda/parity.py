"""A call on the device beside the same call on the CPU, and which public functions have such a case."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor

from pretend_cuda.tensor import PretendedTensor, unwrap

Put = Callable[[Any], Any]  # brings a tensor or a module to where the call is to run
Case = Callable[[Put], Any]
METHODS = (FunctionType, classmethod, staticmethod)


class Cases:
    """The cases of one package, each a function that takes `put`, returns what to compare, and says what it calls:
    `@cases.of("KMeans.fit", "KMeans.predict")`.

    put(x) is x itself in the first call, and x on the device in the second."""

    def __init__(self, package: ModuleType) -> None:
        self.package = package
        self.calls: dict[str, Case] = {}
        self.covered: set[str] = set()

    def of(self, *names: str) -> Callable[[Case], Case]:
        def add(call: Case) -> Case:
            self.covered |= set(names)
            self.calls[call.__name__] = call
            return call

        return add

    def check(self, name: str, **tolerance: float) -> None:
        """Raises AssertionError unless results have the CPU's dtypes and values, and are on the device."""
        expected = self.calls[name](lambda value: value)
        got = self.calls[name](_to_device)
        same(got, expected, **tolerance)

    def missing(self) -> list[str]:
        """Public functions and methods without a case, and cases of what there is no more."""
        return sorted(public_callables(self.package) ^ self.covered)


def _to_device(value: Any) -> Any:
    return value.to("cuda") if hasattr(value, "to") else value


def public_callables(package: ModuleType) -> set[str]:
    """ "function" and "Class.method" of what the package shows, of its own code; not of exceptions."""
    shown = getattr(package, "__all__", None) or [name for name in vars(package) if not name.startswith("_")]
    found: set[str] = set()
    for name in shown:
        value = getattr(package, name)
        if inspect.isfunction(value):
            found.add(name)
        elif inspect.isclass(value) and not issubclass(value, Exception):
            ours = [base for base in value.__mro__ if base.__module__.split(".")[0] == package.__name__]
            methods = {n for base in ours for n, m in vars(base).items() if isinstance(m, METHODS) and n[0] != "_"}
            found |= {f"{name}.{method}" for method in methods - {"extra_repr"}}
            found |= {name} if "__call__" in vars(value) else set()
    return found


def on_cpu(value: Any) -> Any:
    """Marks a result that is to be on the CPU, wherever the inputs are."""
    return _OnCpu(value)


@dataclasses.dataclass
class _OnCpu:
    value: Any


def same(got: Any, expected: Any, *, at: str = "result", device: str = "cuda", **tolerance: float) -> None:
    """Compares tensors inside tuples, lists, dicts and objects; floats as tensors, everything else by ==."""
    if isinstance(expected, _OnCpu):
        same(got.value, expected.value, at=at, device="cpu", **tolerance)
    elif isinstance(expected, Tensor):
        assert isinstance(got, Tensor), f"{at}: {type(got)}"
        assert got.device.type == device, f"{at} is on {got.device}, not on {device}"
        assert isinstance(got, PretendedTensor) == (device == "cuda"), at
        assert got.dtype == expected.dtype, f"{at} is {got.dtype}, and {expected.dtype} on the CPU"
        torch.testing.assert_close(
            unwrap(got.detach()), expected.detach(), equal_nan=True, msg=lambda m: f"{at}: {m}", **_bounds(tolerance)
        )
    elif isinstance(expected, float):
        torch.testing.assert_close(got, expected, equal_nan=True, msg=lambda m: f"{at}: {m}", **_bounds(tolerance))
    elif isinstance(expected, dict):
        assert list(got) == list(expected), at
        for key, value in expected.items():
            same(got[key], value, at=f"{at}[{key!r}]", device=device, **tolerance)
    elif isinstance(expected, tuple | list):
        assert len(got) == len(expected), at
        for i, value in enumerate(expected):
            same(got[i], value, at=f"{at}[{i}]", device=device, **tolerance)
    elif dataclasses.is_dataclass(expected):
        for field in dataclasses.fields(expected):
            values = getattr(got, field.name), getattr(expected, field.name)
            same(*values, at=f"{at}.{field.name}", device=device, **tolerance)
    else:
        assert got == expected, f"{at}: {got}, and {expected} on the CPU"


def _bounds(tolerance: dict[str, float]) -> dict[str, float]:
    return {"rtol": 1e-5, "atol": 1e-6} | tolerance
