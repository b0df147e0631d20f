"""Ctrl-C, SIGTERM and the end of a terminal end a run after the step at hand."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType, TracebackType

from steady_runs._errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A signal to a job comes twice: the scheduler or terminal gives it to every process, and `torchrun` and `uv run` pass
# on what they get. What comes so soon after the first is its echo, and nobody's second thought.
ECHO_S = 3.0


class StopSignal:
    """While open, the first signal is noted in `asked`, and another one, three seconds later or more, stops at once.

    Before `defer` there is nothing worth saving, and the first one stops at once too. Signals of all ranks are those of
    this process: torchrun passes them on to each. Under `nohup` the end of the terminal is none of its business. Forked
    workers do not note signals: they die of SIGTERM, by which pools end them, and leave the others to this process."""

    def __init__(self) -> None:
        self.asked = False
        self.deferred = False
        self._asked_at = 0.0

    def __enter__(self) -> StopSignal:
        under_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        heeded = [s for s in SIGNALS if s != signal.SIGHUP or not under_nohup]
        self._before = {s: signal.signal(s, self._handle) for s in heeded}
        _open.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _open.remove(self)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.deferred:
            raise Interrupted("stopped before there was anything new to save")
        if self.asked and now - self._asked_at >= ECHO_S:
            raise Interrupted("stopped at once, as told twice; what there is to resume from is the last checkpoint")
        if not self.asked:
            self.asked, self._asked_at = True, now

    def defer(self) -> None:
        self.deferred = True


_open: list[StopSignal] = []


def _block() -> None:
    if _open:  # a signal that reached a child before its handlers are set would be lost, and a pool would wait for ever
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _unblock() -> None:
    if _open:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _in_child() -> None:
    if _open:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        _unblock()


os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_in_child)
