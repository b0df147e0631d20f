"""NumPy arrays as tensors, without a dependency on NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np


def as_tensor(values: Tensor | np.ndarray, device: torch.device | None = None) -> Tensor:
    """Return a tensor as it is, and an array as a tensor on `device` (default: the CPU).

    Arrays share their memory with the result, unless they are read-only, which torch warns about, or have negative
    strides, which torch does not know.
    """
    if isinstance(values, Tensor):
        return values
    if not values.flags.writeable or any(stride < 0 for stride in values.strides):
        values = values.copy()
    return torch.as_tensor(values, device=device)
