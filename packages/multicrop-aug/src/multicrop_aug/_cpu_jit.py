"""How the CPU kernels are compiled: once, kept on disk, without the interpreter's lock.

Products and sums of pixels may be contracted to fused multiply-adds; signs of zero are free. Divisions by zero are not
checked: every divisor is positive.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """A compiled function; its machine code is cached beside the source, or in the user's cache folder."""
    return _compile(function, {"contract", "nsz"})


def jit_free_sums(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `jit`, and sums may be taken in any order, which lets them vectorise."""
    return _compile(function, {"contract", "nsz", "reassoc"})


def jit_exact(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `jit`, and every operation is rounded as written."""
    return _compile(function, set())


def _compile(function: Callable[..., Any], fastmath: set[str]) -> Callable[..., Any]:
    return numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=fastmath or False)(function)


def package_digest() -> str:
    """A digest of the package's sources, for the closure of a kernel that is built from functions of several files.

    numba compiles a cached function anew when its own file or its closure changes, not when a function it calls does.
    """
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
