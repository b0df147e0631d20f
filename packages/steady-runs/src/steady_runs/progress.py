"""Progress of a run: a live line on a terminal, a plain line every ten seconds elsewhere, nothing with `--quiet`.

rich is imported when the first `Progress` is made, so that `--help` is quick.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.live import Live

PLAIN_EVERY_S = 10.0


class Progress:
    """A context in which `doing` updates the live line; `say` prints a line that stays.

    Args:
        quiet: Print only what is said with `even_quiet=True`.
        main: False on ranks that print nothing.
    """

    def __init__(self, *, quiet: bool = False, main: bool = True) -> None:
        from rich.console import Console

        # bound now: while a toolbox runs, sys.stdout is redirected to its log
        self.console = Console(file=sys.stdout, quiet=not main, highlight=False, soft_wrap=True, emoji=False)
        self.quiet = quiet
        self._live: Live | None = None
        self._what, self._began, self._first, self._said = "", 0.0, 0.0, time.monotonic()

    def __enter__(self) -> Progress:
        if self.console.is_terminal and not self.quiet:
            from rich.live import Live

            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)
            self._live = None

    def say(self, text: str, *, even_quiet: bool = False) -> None:
        if even_quiet or not self.quiet:
            self.console.print(text, markup=False)

    def doing(self, what: str, share: float, more: str = "") -> None:
        """Show how far the current work is, with the time left.

        Args:
            what: Name of the work; the time left is measured from when the name changes.
            share: Fraction that is done, 0 to 1.
            more: Further text for the line.
        """
        now = time.monotonic()
        if what != self._what:
            self._what, self._began, self._first = what, now, share
        parts = [f"{what} {bar(share)} {share:4.0%}"]
        if share > self._first and now - self._began > 2:
            parts.append(f"{duration((now - self._began) * (1 - share) / (share - self._first))} left")
        self.show(" | ".join([*parts, *([more] if more else [])]))

    def show(self, line: str) -> None:
        """Replace the live line. Without a terminal, print `line` if the last one was printed ten seconds ago."""
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text(line, overflow="ellipsis", no_wrap=True))
        elif not self.quiet and time.monotonic() - self._said > PLAIN_EVERY_S:
            self._said = time.monotonic()
            self.console.print(line, markup=False)


def bar(share: float, width: int = 12) -> str:
    """A bar of `width` characters, of which the fraction `share` is full."""
    full = round(share * width)
    return "━" * full + "─" * (width - full)


def duration(seconds: float) -> str:
    """`4:05`, or `1:04:05` from an hour on."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
