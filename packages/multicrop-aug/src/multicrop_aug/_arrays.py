"""NumPy arrays as tensors."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_tensor(values: Any) -> Any:
    """Return a NumPy array as a CPU tensor, and anything else as it is.

    The tensor shares the array's memory where torch can do so; read-only arrays and negative strides need a copy.
    """
    if not isinstance(values, np.ndarray):
        return values
    if not values.flags.writeable or any(stride < 0 for stride in values.strides):
        values = values.copy()
    return torch.from_numpy(values)


def to_tensor(values: Tensor | np.ndarray) -> Tensor:
    """As `as_tensor`, for values that are one or the other."""
    tensor: Tensor = as_tensor(values)
    return tensor
