"""Errors that nobody foresaw: one line for the user, and the traceback in a file."""

from __future__ import annotations

import os
import tempfile
import traceback
from pathlib import Path

from steady_runs.errors import one_line


def describe(error: Exception, program: str) -> str:
    """Describe in one line an error that is neither bad input nor failed training; write its traceback to a file."""
    return f"{summary(error)}. This is a fault of {program}, please report it; {_kept(error, program)}"


def summary(error: Exception) -> str:
    """Kind, message and place of an error, in one line."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {one_line(error)} ({Path(last.filename).name}:{last.lineno})"


def is_out_of_memory(error: Exception) -> bool:
    """Whether a GPU ran out of memory. The class is recognised by its name, as this module must not import torch."""
    return type(error).__name__ == "OutOfMemoryError"


def _kept(error: Exception, program: str) -> str:
    path = Path(tempfile.gettempdir()) / f"{program}-{os.getpid()}.trace.txt"
    try:
        path.write_text("".join(traceback.format_exception(error)))
    except OSError:
        return "no file could be written for its traceback (--traceback prints it)"
    return f"its traceback is in {path} (--traceback prints it)"
