"""What differs on a GPU: code there must not make the host wait, nor add floats in an order that is not fixed."""

from typing import Any

import torch
from torch import Tensor


def on_gpu(device: torch.device) -> bool:
    """Whether reading a value makes the host wait, and scatter operations add in no fixed order."""
    return device.type == "cuda"


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Copies values to the device. The host does not wait for a copy to a GPU."""
    if values.device.type == "cpu" and device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


class Mirror:
    """Keeps the value of a 0-dim buffer on the host, so that reading it does not wait for the GPU.

    The value is read from the device again only if something else wrote to the buffer, such as a loaded checkpoint.
    torch's count of the writes to a tensor (`_version`) shows this."""

    def __init__(self) -> None:
        self._buffer: Tensor | None = None
        self._version, self._value = -1, 0

    def read(self, buffer: Tensor) -> int:
        """Returns the value. Waits for the device only if the buffer was written to by other means than `write`."""
        if buffer is not self._buffer or buffer.is_inference() or buffer._version != self._version:
            self._keep(buffer, int(buffer))
        return self._value

    def write(self, buffer: Tensor, value: int) -> None:
        """Sets the buffer. Never waits for the device."""
        buffer.fill_(value)
        self._keep(buffer, value)

    def _keep(self, buffer: Tensor, value: int) -> None:
        self._buffer, self._value = buffer, value
        self._version = -1 if buffer.is_inference() else buffer._version

    def __reduce__(self) -> tuple[Any, ...]:
        return Mirror, ()  # a copied or pickled module has other buffers, so its mirror starts empty
