"""Progress of long work: a bar with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_EVERY_S = 10.0


class Progress:
    """Call it with what is done and the share of it that is."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self.console, self.quiet = console, quiet
        self._live: Live | None = None
        self._what, self._began, self._first, self._said = "", 0.0, 0.0, time.monotonic()

    def __enter__(self) -> Progress:
        if self.console.is_terminal and not self.quiet:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def __call__(self, what: str, share: float) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._began, self._first = what, now, share
        line = f"{what}  {share:4.0%}" if share else what
        if share > self._first and now - self._began > 1:
            line += f"  {_clock((now - self._began) * (1 - share) / (share - self._first))} left"
        if self._live is not None:
            self._live.update(Text(line))
        elif not self.quiet and now - self._said > PLAIN_EVERY_S:
            self._said = now
            self.console.print(line, markup=False)


def _clock(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
