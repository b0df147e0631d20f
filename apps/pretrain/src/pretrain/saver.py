"""When a run saves and when it stops, the same on every rank: by steps, by the clock, and on a signal to any rank."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from steady_runs import Interrupted, StopSignal, WorkerLost
from steady_runs.checkpoint import Checkpoints

from pretrain.run_folder import PretrainFolder
from pretrain.settings import parse_interval
from pretrain.state import State

# The ranks ask each other after at most so many steps (or batches of features), and at most so many seconds if steps
# are shorter than that. torchrun and Slurm wait 30 seconds between SIGTERM and SIGKILL.
AT_MOST_STEPS, AT_MOST_S = 10, 2.0


class StopRequested(Exception):
    """Some rank was told to stop. The saver turns it into `Interrupted` after saving."""


class Saver:
    """A context that saves checkpoints while it is open, and once more when a signal ends it.

    Call `begin` when there is something to save; before that a signal stops the run at once.

    Args:
        state: What is saved.
        folder: Where the checkpoints go; used on the first rank only.
        signal: Signals to this rank.

    Raises:
        Interrupted: On leaving, if a rank was told to stop; the checkpoint is written then.
        WorkerLost: On leaving, if a process that loads images was killed.
    """

    def __init__(self, state: State, folder: PretrainFolder, signal: StopSignal) -> None:
        self.state, self.signal = state, signal
        self.checkpoints = Checkpoints(folder.path)
        self.saved_step: int | None = None
        self._machine = state.run.machine
        every = state.settings.checkpoint_every or str(min(1000, state.plan.steps_per_epoch))
        self._due = _Due(signal, self._machine.group, *parse_interval(every))
        self._hint = f"; go on with: uv run apps/pretrain resume {folder.path}" if self._machine.is_main else ""

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, StopRequested):
                self._save_if_new()
            # A worker is lost between two steps, so the weights are intact. With other ranks, which do not know of it,
            # this one cannot save.
            if isinstance(error, WorkerLost) and self.signal.deferred and self._machine.group is None:
                self._save_if_new()
        finally:
            self.checkpoints.__exit__(kind, error, trace)
        if isinstance(error, StopRequested):
            raise Interrupted(f"stopped at step {self.state.step}{self._hint}") from None
        if isinstance(error, WorkerLost):
            raise WorkerLost(f"{error}{self._hint}") from None

    def begin(self) -> None:
        """From now on a signal ends the run after the current step, or the current batch of a pass over the images."""
        self.signal.defer()
        self.state.run.between_batches = self._between_batches

    def save(self, *, keep: bool = False) -> None:
        """Save the state as it is now. Collective.

        Args:
            keep: Keep it as the checkpoint that a mend goes back to, if no sign of collapse is on.

        Raises:
            TrainingFailed: If a loss or a weight is not finite; the last checkpoint stays then.
        """
        state = self.state
        is_finite = state.watch.is_finite(state.losses)
        content = state.state_dict()
        keep = keep and state.watch.is_healthy(state.step)
        if self._machine.is_main:
            is_saved = self.checkpoints.save(content, provided=is_finite, keep=keep)
        else:
            is_saved = bool(is_finite)
        if not is_saved:
            state.watch.refuse_to_save(state.step)
        self.saved_step = state.step
        self._due.saved()

    def after_step(self) -> None:
        """Save if it is due. Raises StopRequested if a rank was told to stop. Collective now and then."""
        due, stop = self._due.after_step(self.state.step)
        if due or stop:
            # One that is only saved as the run stops is not kept: a mend would go back to another step than without it.
            self.save(keep=due)
        if stop:
            raise StopRequested

    def finish(self) -> None:
        """Save the last step, and wait until it is on the disk. A full disk is then reported before the result."""
        self._save_if_new()
        self.checkpoints.wait()

    def _save_if_new(self) -> None:
        if self.saved_step != self.state.step:
            self.save()

    def _between_batches(self) -> None:
        if self._due.is_stopped():
            raise StopRequested


class _Due:
    """Whether to save and whether to stop. If any rank says so, all do.

    Args:
        signal: Signals to this rank.
        group: Process group, or None.
        every: Steps between checkpoints, or None.
        seconds: Seconds between checkpoints by the clock of the first rank, or None.
    """

    def __init__(self, signal: StopSignal, group: Any, every: int | None, seconds: float | None) -> None:
        self.signal, self.group, self.every, self.seconds = signal, group, every, seconds
        self._is_first = group is None or dist.get_rank(group) == 0
        self._saved_at = time.monotonic()
        self._asked_at, self._asked_every, self._until_asked = time.monotonic(), 1, 1

    def saved(self) -> None:
        self._saved_at = time.monotonic()

    def after_step(self, step: int) -> tuple[bool, bool]:
        """(due, stop) after `step` steps. Collective now and then, the same on every rank."""
        save = self.every is not None and step % self.every == 0
        late = self.seconds is not None and self._is_first and time.monotonic() - self._saved_at >= self.seconds
        late, stop = self._agree(late)
        return save or late, stop

    def is_stopped(self) -> bool:
        """Whether a rank was told to stop; for loops that have as many rounds on every rank."""
        return self._agree(False)[1]

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
        any_late, any_asked, slowest_s = said.tolist()  # equal on all ranks, so the number of steps below is, too
        self._asked_every = self._until_asked = min(AT_MOST_STEPS, max(1, int(AT_MOST_S / max(slowest_s, 1e-6))))
        self._asked_at = now
        return any_late > 0, any_asked > 0
