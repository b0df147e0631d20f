"""Ctrl-C, SIGTERM and the clock: when a run saves, and when it ends, the same on every rank."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist
from transfer_runs import Interrupted, StopSignal

__all__ = ["Interrupted", "Moments", "StopRequested", "StopSignal"]

AGREE_EVERY = 10  # steps (or batches of features) between two questions to all ranks


class StopRequested(Exception):
    """Asked for while features were extracted: nothing but the loop knows whether there is something to save."""


class Moments:
    """Whether to save a checkpoint and whether to stop, asked after each step; both are what any rank says.

    every: steps between checkpoints, or seconds where `seconds` is set, by the clock of the first rank."""

    def __init__(
        self, signal: StopSignal, group: Any, *, every: int | None = None, seconds: float | None = None
    ) -> None:
        self.signal, self.group, self.every, self.seconds = signal, group, every, seconds
        self._first = group is None or dist.get_rank(group) == 0
        self.saved_step: int | None = None
        self._saved_at = time.monotonic()
        self._n_asked = 0

    def after_step(self, step: int) -> tuple[bool, bool]:
        """(save, stop) after step `step`, the count of steps done. Collective every tenth step."""
        save = self.every is not None and step % self.every == 0
        late = self.seconds is not None and self._first and time.monotonic() - self._saved_at >= self.seconds
        late, stop = self._agree(step, late)
        return save or late or stop, stop

    def saved(self, step: int) -> None:
        self.saved_step = step
        self._saved_at = time.monotonic()

    def between_batches(self) -> None:
        """Raises StopRequested. Collective every tenth call; for loops that are as long on every rank."""
        self._n_asked += 1
        if self._agree(self._n_asked, False)[1]:
            raise StopRequested

    def _agree(self, count: int, late: bool) -> tuple[bool, bool]:
        if self.group is None:
            return late, self.signal.asked
        if count % AGREE_EVERY:
            return False, False
        said = torch.tensor([float(late), float(self.signal.asked)])
        said = said.to("cuda" if dist.get_backend(self.group) == "nccl" else "cpu")
        dist.all_reduce(said, dist.ReduceOp.MAX, group=self.group)
        late, stop = (said > 0).tolist()
        return late, stop
