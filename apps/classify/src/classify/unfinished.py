"""The state of the benchmark that is running, kept in the run folder so that `resume` goes on inside it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from steady_runs import Interrupted, StopSignal
from steady_runs.checkpoint import Checkpoints

State = dict[str, Any]
SAVE_EVERY_S = 30.0  # at most this much work is lost when the process is killed, beyond the epoch that was running


@contextmanager
def stops_later(stop: StopSignal) -> Iterator[None]:
    """Within this context a signal only sets `stop.asked`. On leaving it, the run is interrupted if that is set."""
    stop.defer()
    try:
        yield
    finally:
        stop.deferred = False
    if stop.asked:
        raise Interrupted


class Unfinished:
    """What a benchmark saves while it runs.

    ```python
    with bench.unfinished.going_on() as unfinished:
        probe.fit(x, y, resume=unfinished.state, after_epoch=unfinished.after_epoch)
    ```

    Args:
        name: Of the benchmark.
        stop: Tells whether the run was told to stop.
        checkpoints: Where the state is saved; None on ranks that save nothing.
        resumed: Content of the checkpoint that the run goes on from, possibly of another benchmark.
    """

    def __init__(self, name: str, stop: StopSignal, checkpoints: Checkpoints | None, resumed: State | None) -> None:
        self.state: Any = resumed["state"] if resumed is not None and resumed["benchmark"] == name else None
        self._name, self._stop, self._checkpoints = name, stop, checkpoints
        self._saved_at = time.monotonic()
        self._is_saved = True  # whether the last finished epoch is in the checkpoint

    @contextmanager
    def going_on(self) -> Iterator[Unfinished]:
        """Within this context a signal stops the run at the next call of `after_epoch` or `stop_if_asked`."""
        with stops_later(self._stop):
            yield self

    def after_epoch(self, state: State) -> None:
        """Save the state if the last save is old or the run was told to stop; in the latter case, interrupt."""
        self._is_saved = self._stop.asked or time.monotonic() - self._saved_at > SAVE_EVERY_S
        if self._is_saved:
            self.save(state)
        self.stop_if_asked()

    def save(self, state: Any) -> None:
        if self._checkpoints is not None:
            self._checkpoints.save({"benchmark": self._name, "state": state})
        self._saved_at = time.monotonic()

    def stop_if_asked(self) -> None:
        """Interrupt within an epoch if the run was told to stop, unless a finished epoch would be lost."""
        if self._stop.asked and self._is_saved:
            raise Interrupted
