"""Triton kernels compiled for a GPU that need not be here, with the arguments that the product launches them with."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

CAPABILITIES = (90, 80)
_OPTIONS = ("num_warps", "num_stages")


@dataclass(frozen=True)
class Launch:
    """kernel and its named arguments: tensors, numbers, constants, and the compiler's options.

    guarded: whether it starts on the device of a tensor, and not on the current one."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, int]
    guarded: bool = True


@dataclass(frozen=True)
class Usage:
    """What ptxas says of a kernel. registers of a thread; spilled: bytes of local memory a thread writes or reads, the
    larger; shared: bytes of shared memory a program; loads, of global memory, and wide ones, of 16 bytes."""

    registers: int
    spilled: int
    shared: int
    warps: int
    loads: int
    wide: int


def launches_of(call: Callable[[], object]) -> list[Launch]:
    """Every launch of a Triton kernel that `call` would make. Nothing runs, so tensors may lie on the meta device."""
    jit = pytest.importorskip("triton.runtime.jit")
    found: list[Launch] = []
    guards: list[torch.Tensor] = []

    @contextmanager
    def guard(tensor: torch.Tensor) -> Iterator[None]:
        guards.append(tensor)
        yield
        guards.pop()

    def record(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in _OPTIONS if name in kwargs}
        found.append(Launch(self, dict(zip(self.arg_names, args, strict=False)) | kwargs, options, bool(guards)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jit.JITFunction, "run", record)
        patch.setattr(torch.cuda, "device_of", guard)
        call()
    return found


def compiled(launch: Launch, capability: int) -> Usage:
    """Compile for sm_<capability>, specialised as Triton does at a launch: 1 is a constant, 16 divides or does not."""
    triton = pytest.importorskip("triton", minversion="3.3")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for place, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        plain = parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1 and not plain):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        signature[parameter.name] = _type_of(value)
        if not plain and _is_aligned(value):
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)
    ptx = binary.asm["ptx"]
    registers, spilled = _assembled(ptx)
    loads = re.findall(r"ld\.global\S*|cp\.async\.c[ag]\S* \[[^\]]*\], \[[^\]]*\], \S+", ptx)
    wide = [load for load in loads if re.search(r"v4\.[bfu]32|v2\.[bfu]64|v8\.[bfu]16|async.* 0x10,", load)]
    metadata = binary.metadata
    return Usage(registers, spilled, metadata.shared, metadata.num_warps, len(loads), len(wide))


@dataclass(frozen=True)
class Pointer:
    """Stands for a tensor of this type that starts at a multiple of 16 bytes."""

    type: str


_TYPES = {
    torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16",
    torch.int64: "i64", torch.int32: "i32", torch.int16: "i16", torch.uint8: "u8", torch.bool: "i1",
}  # fmt: skip


def _type_of(value: Any) -> str:
    if isinstance(value, Pointer):
        return "*" + value.type
    if isinstance(value, torch.Tensor):
        return "*" + _TYPES[value.dtype]
    if isinstance(value, bool):
        return "i1"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    return "fp32"


def _is_aligned(value: Any) -> bool:
    if isinstance(value, torch.Tensor):  # memory itself starts at a multiple of 256 bytes
        return value.storage_offset() * value.element_size() % 16 == 0
    return isinstance(value, Pointer) or (type(value) is int and value % 16 == 0)


def _assembled(ptx: str) -> tuple[int, int]:
    """Registers of a thread, and bytes it spills, by ptxas itself: the driver's compiler would do the same."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)
        assert target is not None
        command = [str(ptxas()), "-v", "--gpu-name", target[1], file.name, "-o", "/dev/null"]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = re.search(r"Used (\d+) registers", report)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert registers is not None, report
    assert spills is not None, report
    return int(registers[1]), max(int(spills[1]), int(spills[2]))


def ptxas() -> Path:
    """Triton's own assembler; skips the test where there is none."""
    nvidia = pytest.importorskip("triton.backends.nvidia", reason="triton's NVIDIA backend is not installed")
    path = Path(nvidia.__file__).parent / "bin" / "ptxas"
    if not path.exists():
        pytest.skip(f"no ptxas at {path}: registers and spills cannot be counted")
    return path
