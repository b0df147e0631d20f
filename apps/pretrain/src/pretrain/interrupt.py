"""Ctrl-C and SIGTERM end a run after the step at hand, with a checkpoint."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

AGREE_EVERY = 10  # steps between two questions whether any rank was told to stop


class Interrupted(KeyboardInterrupt):
    """The run was told to stop; what could be saved is saved."""


class StopSignal:
    def __init__(self, group: Any) -> None:
        self._group = group
        self._told = False
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
        if self._told or not self._deferred:
            raise Interrupted("stopped before there was anything new to save")
        self._told = True

    def defer(self) -> None:
        """From now on the first signal is only noted; a second one still stops at once."""
        self._deferred = True

    def asked(self, at: int) -> bool:
        """Whether to stop after step `at`; the same answer on every rank."""
        if self._group is None:
            return self._told
        if at % AGREE_EVERY:
            return False
        told = torch.tensor([float(self._told)], device="cuda" if dist.get_backend(self._group) == "nccl" else "cpu")
        dist.all_reduce(told, dist.ReduceOp.MAX, group=self._group)
        return bool(told)
