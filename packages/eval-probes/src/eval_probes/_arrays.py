"""NumPy arrays as tensors."""

import warnings

import numpy as np
import torch
from torch import Tensor

Array = Tensor | np.ndarray


def as_tensor(x: Array) -> Tensor:
    """Return a tensor unchanged, and a NumPy array as a CPU tensor that shares its memory where torch can."""
    if isinstance(x, Tensor):
        return x
    array = np.asarray(x)
    if any(stride < 0 for stride in array.strides):  # torch has no negative strides
        array = array.copy()
    with warnings.catch_warnings():
        # A read-only memory map is fine: no function here writes to its inputs.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)
