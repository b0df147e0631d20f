"""Errors that nobody foresaw: one line for the user, and the trace where it can be found."""

from __future__ import annotations

import os
import tempfile
import traceback
from pathlib import Path

from pretrain.errors import one_line


def describe(error: Exception) -> str:
    """One line on an error that is no known kind of bad input or failed training; its trace goes to a file."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name}:{last.lineno}"
    text = f"{type(error).__name__}: {one_line(error)} ({where})"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, by name: this module must not import torch
        return f"the GPU has no memory left; take --micro-batch 64 or a smaller --batch. {text}"
    return f"{text}. This is a fault of pretrain, please report it; {_kept(error)} (--traceback prints the trace)"


def _kept(error: Exception) -> str:
    trace = "".join(traceback.format_exception(error))
    path = Path(tempfile.gettempdir()) / f"pretrain-{os.getpid()}.trace.txt"
    try:
        path.write_text(trace)
    except OSError:
        return "no file could be written for its trace"
    return f"its trace is in {path}"
