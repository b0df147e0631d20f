"""Compiles the CPU kernels: once, cached on disk, running without the interpreter's lock.

The compiler may fuse products and sums of pixels to multiply-adds and may ignore the sign of zero. Divisions are not
checked, because every divisor is positive.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function; its machine code is cached beside the source, or in the user's cache folder."""
    return _compile(function, {"contract", "nsz"})


def jit_free_sums(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile as `jit` does, and let sums be taken in any order, so that they vectorise."""
    return _compile(function, {"contract", "nsz", "reassoc"})


def jit_exact(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with every operation rounded as written."""
    return _compile(function, set())


def _compile(function: Callable[..., Any], fastmath: set[str]) -> Callable[..., Any]:
    return numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=fastmath or False)(function)


def package_digest() -> str:
    """Return a digest of the package's sources.

    numba recompiles a cached function when its own file or its closure changes, but not when a function that it calls
    changes. So kernels that call functions of other files hold this digest in their closure.
    """
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
