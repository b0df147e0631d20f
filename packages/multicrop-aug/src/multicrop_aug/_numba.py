"""Whether numba is here, without which plans are drawn by NumPy and crops rendered by torch or Triton."""

from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def has_numba() -> bool:
    """Whether numba can be imported: it may be missing, or not made for this NumPy. Imports it, in 0.3 s."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


def for_both(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself; where numba is, compiled code may call it too."""
    if not has_numba():
        return function
    from numba.extending import register_jitable

    return register_jitable(function)
