"""NumPy arrays as inputs of the networks."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:  # NumPy is optional: torch works without it
    import numpy as np


def as_tensor(values: "Tensor | np.ndarray") -> Tensor:
    """Return a tensor as it is, and a NumPy array as a new CPU tensor of the same dtype."""
    # A copy, not a view: torch warns where it shares memory with an array that is read-only.
    return values if isinstance(values, Tensor) else torch.tensor(values)
