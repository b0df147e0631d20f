"""Ctrl-C and SIGTERM end a run after the step at hand."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType

from transfer_runs._errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """While open, the first signal is noted in `asked`, and a second one stops at once.

    Before `defer` there is nothing worth saving, and the first one stops at once too. Signals of all ranks are those of
    this process: torchrun passes them on to each. Forked workers do not note signals: they die of SIGTERM, by which
    pools end them, and leave Ctrl-C to this process."""

    def __init__(self) -> None:
        self.asked = False
        self.deferred = False

    def __enter__(self) -> StopSignal:
        self._before = {s: signal.signal(s, self._handle) for s in SIGNALS}
        _open.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _open.remove(self)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked or not self.deferred:
            raise Interrupted("stopped before there was anything new to save")
        self.asked = True

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
        _unblock()


os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_in_child)
