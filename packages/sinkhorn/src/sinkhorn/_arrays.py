"""NumPy arrays as tensors, without a dependency on NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np


def as_tensor(values: Tensor | np.ndarray, device: torch.device | None = None) -> Tensor:
    """Return a tensor as it is, and an array as a tensor on `device` (default: the CPU).

    Writable arrays share their memory with the result. Read-only ones are copied, because torch warns about them.
    """
    if isinstance(values, Tensor):
        return values
    flags = getattr(values, "flags", None)
    if flags is not None and not flags.writeable:
        values = values.copy()
    return torch.as_tensor(values, device=device)
