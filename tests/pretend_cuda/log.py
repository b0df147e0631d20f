"""What a GPU would have been asked to do, as `Device.watched()` shows it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_PROJECT = tuple(str(ROOT / folder) + "/" for folder in ("packages", "apps"))
_CASES = (str(ROOT / "tests" / "pretend_cuda" / "cases") + "/",)


class Place(NamedTuple):
    """A line of the project. Printed as `cluster_memory/_kmeans.py:81 in fit`."""

    line: str  # "cluster_memory/_kmeans.py:81"
    function: str

    def __str__(self) -> str:
        return f"{self.line} in {self.function}"


class Wait(NamedTuple):
    """The host waited for the device, as `torch.cuda.set_sync_debug_mode` would report it (that mode knows fewer)."""

    kind: str  # such as "item", "nonzero", "copy to host", "copy from pageable memory", "event.synchronize"
    place: Place


class Copy(NamedTuple):
    """A copy between host and device. Non-blocking copies from pageable memory may wait, and are no waits here."""

    direction: str  # "to device" or "to host"
    blocking: bool
    pinned: bool
    place: Place


@dataclass
class Log:
    waits: Counter[Wait] = field(default_factory=Counter)
    copies: Counter[Copy] = field(default_factory=Counter)
    launches: Counter[str] = field(default_factory=Counter)  # of kernels, by operation; one for a foreach operation
    kernels: Counter[str] = field(default_factory=Counter)  # those of them that are Triton's
    unrepeatable: Counter[Wait] = field(default_factory=Counter)  # float operations whose order of sums may differ
    host_scalars: Counter[Wait] = field(default_factory=Counter)  # 0-dim CPU tensors among operands: legal, often meant

    @property
    def n_waits(self) -> int:
        return self.waits.total()

    def waits_by_line(self) -> str:
        """For the message of an assertion."""
        found = [f"{n} x {wait.kind} at {wait.place}" for wait, n in self.waits.most_common()]
        return "the host waited for the device:\n  " + "\n  ".join(found or ["never"])


_logs: list[Log] = []


@contextmanager
def watched() -> Iterator[Log]:
    """A log of what happens inside, on all pretended devices and in all threads. May be nested."""
    log = Log()
    _logs.append(log)
    try:
        yield log
    finally:
        _logs[:] = [other for other in _logs if other is not log]


def wait(kind: str) -> None:
    if _logs:
        event = Wait(kind, place())
        for log in _logs:
            log.waits[event] += 1


def copy(direction: str, *, blocking: bool, pinned: bool) -> None:
    if _logs:
        event = Copy(direction, blocking, pinned, place())
        for log in _logs:
            log.copies[event] += 1
    if blocking:
        wait("copy to host" if direction == "to host" else f"copy from {'pinned' if pinned else 'pageable'} memory")


def launch(operation: str, *, triton: bool = False) -> None:
    for log in _logs:
        log.launches[operation] += 1
        if triton:
            log.kernels[operation] += 1


def unrepeatable(operation: str) -> None:
    if _logs:
        event = Wait(operation, place())
        for log in _logs:
            log.unrepeatable[event] += 1


def host_scalar(operation: str) -> None:
    if _logs:
        event = Wait(operation, place())
        for log in _logs:
            log.host_scalars[event] += 1


def place() -> Place:
    """The innermost line of packages or apps that is being run; else of a case; else "?" (a backward pass is one)."""
    return _innermost(_PROJECT) or _innermost(_CASES) or Place("?", "?")


def _innermost(roots: tuple[str, ...]) -> Place | None:
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(roots):
            short = path.rsplit("/src/", 1)[-1] if "/src/" in path else Path(path).name
            return Place(f"{short}:{frame.f_lineno}", frame.f_code.co_name)
        frame = frame.f_back  # type: ignore[assignment]
    return None
