"""Stand-ins for the names of `torch.cuda` that ask for a driver: devices, streams, events, memory, random state."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from pretend_cuda import generators, log, pinned
from pretend_cuda.tensor import current_index

N_DEVICES = 2
MEMORY = 140 << 30  # bytes


def _index(device: Any) -> int:
    if device is None:
        return current_index[0]
    index = device if isinstance(device, int) else torch.device(device).index
    index = current_index[0] if index is None else index
    if not 0 <= index < N_DEVICES:
        raise RuntimeError(f"CUDA error: invalid device ordinal {index}; {N_DEVICES} devices are pretended")
    return index


class device:
    """torch.cuda.device: makes it the current one for a while."""

    def __init__(self, device: Any) -> None:
        self.index = None if isinstance(device, int) and device < 0 else _index(device)

    def __enter__(self) -> None:
        self.before = current_index[0]
        if self.index is not None:
            current_index[0] = self.index

    def __exit__(self, *raised: object) -> None:
        current_index[0] = self.before


class device_of(device):
    """torch.cuda.device_of: the device of a tensor; does nothing for one on the CPU."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__(tensor.device.index if tensor.is_cuda else -1)


def set_device(device: Any) -> None:
    current_index[0] = _index(device)


class Event:
    """Nothing to record: what was asked for is already done. To wait for it counts as a wait all the same."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
        self.enable_timing = enable_timing

    def record(self, stream: object = None) -> None:
        pass

    def wait(self, stream: object = None) -> None:
        pass

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        log.wait("event.synchronize")

    def elapsed_time(self, end: Event) -> float:
        return 1.0  # ms


class Stream:
    """A queue that is always empty. Order between streams is not pretended: a missing wait_stream shows nothing."""

    def __init__(self, device: Any = None, priority: int = 0, **more: Any) -> None:
        self.device_index = _index(device)
        self.device = torch.device("cuda", self.device_index)
        self.cuda_stream = 0

    def wait_stream(self, stream: object) -> None:
        pass

    def wait_event(self, event: object) -> None:
        pass

    def record_event(self, event: Event | None = None) -> Event:
        return event or Event()

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        log.wait("stream.synchronize")


_streams = [Stream(i) for i in range(N_DEVICES)]  # the current one of each device


class StreamContext:
    """torch.cuda.stream(s): its device and stream are the current ones for a while; None changes nothing."""

    def __init__(self, stream: Stream | None) -> None:
        self.stream = stream

    def __enter__(self) -> None:
        if self.stream is not None:
            index = self.stream.device_index
            self.before = current_index[0], _streams[index]
            current_index[0], _streams[index] = index, self.stream

    def __exit__(self, *raised: object) -> None:
        if self.stream is not None:
            current_index[0], _streams[self.stream.device_index] = self.before


def set_stream(stream: Stream) -> None:
    current_index[0] = stream.device_index
    _streams[stream.device_index] = stream


def _properties(device: Any = None) -> Any:
    return types.SimpleNamespace(
        name="Pretended H200",
        major=9,
        minor=0,
        total_memory=MEMORY,
        multi_processor_count=2,  # few: grids grow with it, and the interpreter runs one program after the other
        warp_size=32,
        max_threads_per_multi_processor=2048,
        shared_memory_per_block_optin=227 << 10,
        L2_cache_size=50 << 20,
        uuid="pretended",
    )


_CUDA: dict[str, Any] = {
    "_lazy_init": lambda: None,
    "is_initialized": lambda: True,
    "init": lambda: None,
    "is_available": lambda: True,
    "device_count": lambda: N_DEVICES,
    "current_device": lambda: current_index[0],
    "set_device": set_device,
    "device": device,
    "device_of": device_of,
    "get_device_capability": lambda device=None: (9, 0),
    "get_device_name": lambda device=None: "Pretended H200",
    "get_device_properties": _properties,
    "get_arch_list": lambda: ["sm_90"],
    "is_bf16_supported": lambda *args, **kwargs: True,
    "mem_get_info": lambda device=None: (MEMORY - (1 << 30), MEMORY),
    "memory_allocated": lambda device=None: 0,
    "max_memory_allocated": lambda device=None: 0,
    "memory_reserved": lambda device=None: 0,
    "max_memory_reserved": lambda device=None: 0,
    "reset_peak_memory_stats": lambda device=None: None,
    "memory_stats": lambda device=None: {},
    "empty_cache": lambda: None,
    "ipc_collect": lambda: None,
    "synchronize": lambda device=None: log.wait("cuda.synchronize"),
    # operations without a generator of their own draw from the CPU's default one
    "manual_seed": lambda seed: None,
    "manual_seed_all": lambda seed: None,
    "get_rng_state": lambda device=None: torch.get_rng_state(),
    "get_rng_state_all": lambda: [torch.get_rng_state()] * N_DEVICES,
    "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
    "set_rng_state_all": lambda states: torch.set_rng_state(states[0]),
    "Event": Event,
    "Stream": Stream,
    "StreamContext": StreamContext,
    "stream": StreamContext,
    "set_stream": set_stream,
    "current_stream": lambda device=None: _streams[_index(device)],
    "default_stream": lambda device=None: _streams[_index(device)],
    "is_current_stream_capturing": lambda: False,
}

_ACCELERATOR: dict[str, Any] = {
    "is_available": lambda: True,
    "device_count": lambda: N_DEVICES,
    "current_accelerator": lambda check_available=False: torch.device("cuda"),
    "current_device_index": lambda: current_index[0],
    "set_device_index": set_device,
    "set_device_idx": set_device,
    "current_stream": lambda device=None: _streams[_index(device)],
    "synchronize": lambda device=None: log.wait("cuda.synchronize"),
    "empty_cache": lambda: None,
}


@contextlib.contextmanager
def pretended() -> Iterator[None]:
    before = current_index[0]
    with contextlib.ExitStack() as stack:
        for module, names in ((torch.cuda, _CUDA), (torch.accelerator, _ACCELERATOR)):
            for name, stand_in in names.items():
                if hasattr(module, name):
                    stack.enter_context(patch.object(module, name, stand_in))
        stack.enter_context(patch.object(torch, "Generator", generators.Generator))
        stack.enter_context(patch.object(torch.Tensor, "pin_memory", pinned.pin))
        stack.enter_context(patch.object(torch.Tensor, "is_pinned", pinned.is_pinned))
        # a module of properties, which mock cannot put back
        stack.callback(setattr, torch.backends.cudnn, "enabled", torch.backends.cudnn.enabled)
        torch.backends.cudnn.enabled = False
        yield
    current_index[0] = before
