"""Processes for the tests."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def start_child() -> Iterator[Callable[[Callable[[], int | None]], int]]:
    """A function that runs `work` in a forked process and returns its process number. The exit code is 99 if it raised.

    Children that still run at the end of the test are killed.
    """
    started: list[int] = []

    def start(work: Callable[[], int | None]) -> int:
        child = os.fork()
        if child:
            started.append(child)
            return child
        code = 99
        try:
            code = work() or 0
        except BaseException:
            traceback.print_exc()
        finally:  # a child must never return into pytest
            os._exit(code)

    yield start
    for child in started:
        try:
            os.kill(child, 9)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            continue
