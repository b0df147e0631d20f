"""NumPy arrays as tensors."""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_tensor(values: Any) -> Any:
    """Return a NumPy array as a CPU tensor, and anything else as it is.

    The tensor shares the array's memory, except for negative strides, which torch does not know. Nothing here writes to
    it, so read-only arrays, such as memory maps of large sets, need no copy, and torch's warning about them is muted.
    """
    if not isinstance(values, np.ndarray):
        return values
    if any(stride < 0 for stride in values.strides):
        values = values.copy()
    if values.flags.writeable:
        return torch.from_numpy(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(values)


def to_tensor(values: Tensor | np.ndarray) -> Tensor:
    """Return a tensor as it is, and a NumPy array as a CPU tensor; see `as_tensor`."""
    tensor: Tensor = as_tensor(values)
    return tensor
