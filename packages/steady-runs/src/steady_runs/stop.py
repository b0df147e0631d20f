"""Ctrl-C, SIGTERM and a closed terminal end a run after its current step."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType, TracebackType

from steady_runs.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A process often gets the same signal twice: from the scheduler or terminal, which signals every process of a job, and
# from `torchrun` or `uv run`, which forward theirs. A second one within this time is a copy, not a second Ctrl-C.
ECHO_S = 3.0


class StopSignal:
    """A context in which the first signal sets `asked`, and a second one, three seconds later or more, stops at once.

    Call `defer` once there is something to save; before that, the first signal stops at once. Each rank handles its own
    signals, as torchrun forwards them to every rank. Under `nohup` SIGHUP is ignored. Forked worker processes end on
    SIGTERM, which is how pools stop them, and ignore SIGINT and SIGHUP.

    Raises:
        Interrupted: Out of whatever is running, when a signal stops at once.
    """

    def __init__(self) -> None:
        self.asked = False
        self.deferred = False
        self._asked_at = 0.0

    def __enter__(self) -> StopSignal:
        under_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        handled = [s for s in SIGNALS if s != signal.SIGHUP or not under_nohup]
        self._before = {s: signal.signal(s, self._handle) for s in handled}
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
    if _open:  # without this, a signal that reaches a child before its handlers are set is lost, and its pool hangs
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
