"""What all probes share: parameters and repr in the manner of scikit-learn, and the names of settings."""

import inspect
import reprlib
from typing import Any

from torch import Tensor

Scores = dict[str, dict[str, float]]  # setting -> {metric: value}, what every `evaluate` returns


class NotFittedError(ValueError, AttributeError):
    """A probe was used before `fit`, or a fitted attribute was read that this `fit` did not set."""


class Probe:
    """Base class of all probes.

    A subclass stores its constructor arguments unchanged under their own names; `fit` validates them.
    """

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor arguments by name.

        Args:
            deep: Ignored; scikit-learn's `clone` passes it.

        Returns:
            {argument name: value}.
        """
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def __repr__(self) -> str:
        arguments = (f"{name}={_SHORT.repr(value)}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({', '.join(arguments)})"


class _ShortRepr(reprlib.Repr):
    """Shows tensors by their shape, and the first entries of long sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.maxtuple = self.maxlist = 8
        self.maxother = self.maxstring = 250

    def repr_Tensor(self, x: Tensor, level: int) -> str:
        return f"<tensor {tuple(x.shape)}>"

    def repr_ndarray(self, x: Any, level: int) -> str:
        return f"<array {x.shape}>"


_SHORT = _ShortRepr()


def setting(name: str, value: float) -> str:
    """Name of a setting in the results of `evaluate`, such as "k=20" or "lr=0.3"."""
    return f"{name}={value:.15g}"
