"""A copy on the host of a number that lives on a device, so that reading it does not wait for the device."""

from typing import Any

from torch import Tensor


class Mirror:
    """The value of a 0-dim buffer on the host.

    The buffer is read from the device only after other code wrote to it. torch counts the writes to each tensor, so
    loading a checkpoint or moving the module to another device is detected.
    """

    def __init__(self) -> None:
        self._buffer: Tensor | None = None
        self._version, self._value = -1, 0

    def read(self, buffer: Tensor) -> int:
        """Return the value. Waits for the device only if other code than `write` changed the buffer."""
        if buffer is not self._buffer or buffer.is_inference() or buffer._version != self._version:
            self._keep(buffer, int(buffer))
        return self._value

    def write(self, buffer: Tensor, value: int) -> None:
        """Set the buffer without waiting for the device."""
        buffer.fill_(value)
        self._keep(buffer, value)

    def _keep(self, buffer: Tensor, value: int) -> None:
        self._buffer, self._value = buffer, value
        self._version = -1 if buffer.is_inference() else buffer._version

    def __reduce__(self) -> tuple[Any, ...]:
        return Mirror, ()  # a copy of the module has other buffers
