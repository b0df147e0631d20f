"""Whether numba can be used. Without it, NumPy draws plans, and torch or Triton renders crops."""

from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def has_numba() -> bool:
    """Whether numba can be imported. It may be missing, or too old for this NumPy. The import takes 0.3 s."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


def for_both(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function unchanged, and let compiled code call it if numba is available."""
    if not has_numba():
        return function
    from numba.extending import register_jitable

    return register_jitable(function)
