"""`torch.Generator(device="cuda")`, pretended: a CPU generator that is known as one of a device."""

from __future__ import annotations

import weakref
from typing import Any

import torch

_Host = torch.Generator
_known: dict[int, int] = {}  # address of the C++ object, which is all that an operation gets to see: device index


class Generator(_Host):
    """Takes the place of torch.Generator: of the CPU, or of a pretended device."""

    index: int | None

    def __new__(cls, device: Any = "cpu") -> Generator:
        self = super().__new__(cls)
        device = torch.device(device)
        self.index = (device.index or 0) if device.type == "cuda" else None
        if self.index is not None:
            _known[self._cdata] = self.index
            weakref.finalize(self, _known.pop, self._cdata, None)
        return self

    def __init__(self, device: Any = "cpu") -> None:
        pass

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cpu") if self.index is None else torch.device("cuda", self.index)


def is_cuda(generator: torch.Generator) -> bool:
    return generator._cdata in _known
