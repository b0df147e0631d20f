"""`pretended()`: what a case opens."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import torch
from torch.optim import optimizer

from pretend_cuda import kernels, log, runtime
from pretend_cuda.tensor import PretendedMode, PretendedTensor, unwrap


class Device:
    """Two pretended GPUs, cuda:0 and cuda:1."""

    def watched(self) -> AbstractContextManager[log.Log]:
        """A log of waits, copies and launches inside."""
        return log.watched()

    def peek(self, value: Any) -> Any:
        """The values as CPU tensors, also inside tuples, dicts and dataclasses; not logged, as a copy would be."""
        return unwrap(value)


@contextlib.contextmanager
def pretended(*, stand_ins: bool = True) -> Iterator[Device]:
    """CUDA is pretended inside, and what was patched is as before afterwards. Not for two threads at once.

    stand_ins: see `kernels.pretended`. Raises RuntimeError in a process that was started without the stub of libcuda;
    `uv run tests/pretend_cuda` starts one with it."""
    count = _prepare()
    types = optimizer._foreach_supported_types
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    with contextlib.ExitStack() as stack:
        # Autograd looks for devices with a context, in a loop over one more than it needs; 127 is the last it accepts.
        count.value = 127
        stack.callback(setattr, count, "value", 0)
        stack.enter_context(runtime.pretended())
        stack.enter_context(kernels.pretended(stand_ins=stand_ins))
        # optimisers take foreach operations for tensors of these very types only
        stack.enter_context(patch.object(optimizer, "_foreach_supported_types", [*types, PretendedTensor]))
        # parameters stay the objects that they are when a module moves, as they do on a GPU
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swaps)
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.enter_context(PretendedMode())
        yield Device()


def _prepare() -> ctypes.c_byte:
    """What cannot be undone, so it needs a process of its own. Returns the number of devices that torch is told."""
    if not hasattr(ctypes.CDLL(None), "pretended_device_count"):
        raise RuntimeError("this process was started without the stub of libcuda: use `uv run tests/pretend_cuda`")
    torch._C._ensureCUDADeviceGuardSet()  # a guard that does nothing, where there is no device
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") is made on the CPU, then copied
    return ctypes.c_byte.in_dll(ctypes.CDLL(None), "pretended_device_count")


def start_autograd() -> None:
    """For a process that computes gradients on the CPU before it pretends for the first time."""
    with pretended():
        torch.ones((), device="cuda", requires_grad=True).square().backward()
