"""Ctrl-C and SIGTERM end a run after the step at hand."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType

from transfer_runs._errors import Interrupted


class StopSignal:
    """While open, the first signal is noted in `asked`, and a second one stops at once.

    Before `defer` there is nothing worth saving, and the first one stops at once too. Signals of all ranks are those of
    this process: torchrun passes them on to each."""

    def __init__(self) -> None:
        self.asked = False
        self._deferred = False
        self._process = os.getpid()

    def __enter__(self) -> StopSignal:
        self._before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked worker inherits this handler, and must die of the signal
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if self.asked or not self._deferred:
            raise Interrupted("stopped before there was anything new to save")
        self.asked = True

    def defer(self) -> None:
        self._deferred = True
