"""`--pretend`: the pretended CUDA of the tests, `tests/pretend_cuda`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "tests"))


def environment() -> dict[str, str]:
    """Of a process that can pretend; ends this one with a line where none can."""
    from pretend_cuda import build

    if reason := build.unavailable():
        sys.exit(reason)
    return build.environment()


@contextlib.contextmanager
def pretended_device(wanted: bool) -> Iterator[Any]:
    """The pretended device, whose `watched()` logs waits; None where none is wanted."""
    if not wanted:
        yield None
        return
    from pretend_cuda.device import pretended

    with pretended() as device:
        yield device
