"""Ctrl-C, SIGTERM, a closed terminal and the clock: when a run saves, and when it ends, the same on every rank."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist
from steady_runs import Interrupted, StopSignal

__all__ = ["Interrupted", "Moments", "StopRequested", "StopSignal"]

# Between two questions to all ranks: at most so many steps (or batches of features), and so many seconds where a step
# is shorter than that. torchrun and Slurm wait 30 seconds between SIGTERM and SIGKILL.
AT_MOST_STEPS, AT_MOST_S = 10, 2.0


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
        self._asked_at, self._asked_every, self._until_asked = time.monotonic(), 1, 1

    def after_step(self, step: int) -> tuple[bool, bool]:
        """(save, stop) after step `step`, the count of steps done. Collective now and then, the same on every rank."""
        save = self.every is not None and step % self.every == 0
        late = self.seconds is not None and self._first and time.monotonic() - self._saved_at >= self.seconds
        late, stop = self._agree(late)
        return save or late or stop, stop

    def saved(self, step: int) -> None:
        self.saved_step = step
        self._saved_at = time.monotonic()

    def between_batches(self) -> None:
        """Raises StopRequested. Collective now and then; for loops that are as long on every rank."""
        if self._agree(False)[1]:
            raise StopRequested

    def _agree(self, late: bool) -> tuple[bool, bool]:
        if self.group is None:
            return late, self.signal.asked
        self._until_asked -= 1
        if self._until_asked:
            return False, False
        now = time.monotonic()
        step_s = (now - self._asked_at) / self._asked_every
        said = torch.tensor([float(late), float(self.signal.asked), step_s])
        said = said.to("cuda" if dist.get_backend(self.group) == "nccl" else "cpu")
        dist.all_reduce(said, dist.ReduceOp.MAX, group=self.group)
        any_late, any_asked, slowest_s = said.tolist()  # equal on all ranks, and so is what follows from them
        self._asked_every = self._until_asked = min(AT_MOST_STEPS, max(1, int(AT_MOST_S / max(slowest_s, 1e-6))))
        self._asked_at = now
        return any_late > 0, any_asked > 0
