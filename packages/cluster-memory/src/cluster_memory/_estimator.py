"""What the estimators share: the constructor arguments, as a dictionary and as text."""

import inspect
from typing import Any

import numpy as np
from torch import Tensor


class Estimator:
    """Base class of the estimators, which keep each constructor argument as an attribute of the same name."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Returns the constructor arguments by name, so that `type(self)(**params)` makes an unfitted copy.

        Args:
            deep: Ignored. It is there because scikit-learn passes it.

        Returns:
            Names and values of all constructor arguments.
        """
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={_short(v)}' for k, v in self.get_params().items())})"


def _short(value: object) -> str:
    """Text of an argument; arrays are shown by their type and shape."""
    if isinstance(value, Tensor | np.ndarray):
        return f"<{type(value).__name__} {tuple(value.shape)}>"
    return repr(value)
