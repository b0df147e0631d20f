"""Where the time of a run goes: data, augmentation, network, method."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

SECTIONS = {
    "data": "waiting for data",
    "augmentation": "augmentation",
    "network": "network",  # forward, loss, backward, update
    "method": "method",  # codes, memories, clusterings
}


class Clock:
    """Counts seconds by section. Time in a nested section counts for the inner one only.

    On a GPU, sections are timed by CUDA events, which nothing waits for before the run ends.
    """

    def __init__(self, device: torch.device, before: dict[str, float] | None = None) -> None:
        self.cuda = device.type == "cuda"
        self.total = dict.fromkeys(SECTIONS, 0.0) | (before or {})
        self._at_last_line = dict(self.total)
        self._open: list[str] = []
        self._since: Any = None
        self._events: list[tuple[str, Any, Any]] = []

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        self._switch()
        self._open.append(name)
        try:
            yield
        finally:
            self._switch()
            self._open.pop()

    def waiting(self, name: str, batches: Iterable[Any]) -> Iterator[Any]:
        """Pass the batches on, and count the time until each arrives; always measured on the host."""
        iterator = iter(batches)
        while True:
            began = time.perf_counter()
            batch = next(iterator, None)
            self.total[name] += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def figures(self) -> dict[str, float]:
        """Seconds of each section since the last call, as `time_SECTION`; on a GPU, of the work it has finished."""
        waiting = []
        for name, began, ended in self._events:
            if ended.query():
                self.total[name] += began.elapsed_time(ended) / 1000
            else:
                waiting.append((name, began, ended))
        self._events = waiting
        new = {f"time_{name}": self.total[name] - self._at_last_line[name] for name in SECTIONS}
        self._at_last_line = dict(self.total)
        return new

    def summary(self) -> str:
        """One line with the percentage of each section. Waits for the GPU."""
        for _, _, ended in self._events:
            ended.synchronize()
        self.figures()
        whole = sum(self.total.values()) or 1.0
        return ", ".join(f"{text} {self.total[name] / whole:.0%}" for name, text in SECTIONS.items())

    def _switch(self) -> None:
        """Add the time since the last switch to the innermost open section."""
        now = self._now()
        if self._open and self.cuda:
            self._events.append((self._open[-1], self._since, now))
        elif self._open:
            self.total[self._open[-1]] += now - self._since
        self._since = now

    def _now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
