"""What is done otherwise on a GPU: no wait of the host, and no float additions whose order is open."""

from typing import Any

import torch
from torch import Tensor


def on_gpu(device: torch.device) -> bool:
    """Whether reading a value makes the host wait, and threads add to one place in any order."""
    return device.type == "cuda"


def sent(values: Tensor, device: torch.device) -> Tensor:
    """values on device; the host does not wait for a copy to a GPU."""
    if values.device.type == "cpu" and device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


class Mirror:
    """A 0-dim buffer's value on the host: read from the device only after someone else wrote to the buffer.

    torch counts the writes to a tensor; a checkpoint that is loaded, or a move to another device, is noticed so."""

    def __init__(self) -> None:
        self._buffer: Tensor | None = None
        self._version, self._value = -1, 0

    def read(self, buffer: Tensor) -> int:
        """Waits for the device if the buffer was written to by other means than `write`."""
        if buffer is not self._buffer or buffer.is_inference() or buffer._version != self._version:
            self._keep(buffer, int(buffer))
        return self._value

    def write(self, buffer: Tensor, value: int) -> None:
        """Never waits."""
        buffer.fill_(value)
        self._keep(buffer, value)

    def _keep(self, buffer: Tensor, value: int) -> None:
        self._buffer, self._value = buffer, value
        self._version = -1 if buffer.is_inference() else buffer._version

    def __reduce__(self) -> tuple[Any, ...]:
        return Mirror, ()  # a copy of the module has other buffers
