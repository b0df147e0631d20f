"""What a run says while it goes: a live line on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_EVERY_S = 10.0  # between lines where there is no terminal to redraw


class Screen:
    def __init__(self, quiet: bool, main: bool = True) -> None:
        self.console = Console(quiet=not main, highlight=False, soft_wrap=True)
        self.quiet = quiet
        self._live: Live | None = None
        self._last_plain = 0.0

    def __enter__(self) -> Screen:
        if self.console.is_terminal and not self.quiet:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)
            self._live = None

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text, markup=False)

    def result(self, text: str) -> None:
        """Said even when quiet."""
        self.console.print(text, markup=False)

    def doing(self, what: str, share: float) -> None:
        """Progress of something that is not a training step."""
        if self._live is not None:
            self._live.update(Text(f"{what}  {_bar(share)} {share:4.0%}"))

    def step(self, figures: dict[str, Any]) -> None:
        """One line on where training stands; see `_line` for the figures used."""
        if self._live is not None:
            self._live.update(Text(_line(figures), overflow="ellipsis", no_wrap=True))
        elif not self.quiet and time.monotonic() - self._last_plain > PLAIN_EVERY_S:
            self._last_plain = time.monotonic()
            self.console.print(_line(figures), markup=False)


def _line(f: dict[str, Any]) -> str:
    parts = [
        f"epoch {f['epoch'] + 1}/{f['epochs']} {_bar(f['share'])}",
        f"{f['images_per_s']:.0f} img/s",
        f"{duration(f['left_s'])} left",
        f"loss {f['loss']:.3f}",
    ]
    if "change" in f:
        parts.append(f"changed {f['change']:.0%}")
    if "smallest" in f:
        parts.append(f"clusters {f['smallest']:.0f}-{f['largest']:.0f} images, {f['effective_clusters']:.0f} effective")
    if f.get("knn_top1") is not None:
        parts.append(f"kNN {f['knn_top1']:.1f} %")
    return " | ".join(parts)


def _bar(share: float, width: int = 12) -> str:
    full = round(share * width)
    return "━" * full + "─" * (width - full)


def duration(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
