"""What a protocol is, what it is given, and what it gives back."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from steady_runs._folder import RunFolder
from steady_runs._progress import Progress
from steady_runs._stop import StopSignal


@dataclass
class Job:
    """One run: options as given (see `options`), its folder, and who listens.

    resumed: whether the folder holds a run to go on with. rank, world: of this process among those of torchrun."""

    options: argparse.Namespace
    folder: RunFolder
    progress: Progress
    stop: StopSignal
    resumed: bool = False
    rank: int = 0
    world: int = 1


@dataclass
class Outcome:
    """metrics: {column of the published table: percent}; untrained: the same before training, or None.

    facts: whatever else belongs into results.json. pictures: (caption, image), truth and prediction side by side.
    classes: {name: percent} of the main metric, where the evaluator gives it. title: instead of the protocol's, where
    an option changes what is compared."""

    metrics: dict[str, float]
    untrained: dict[str, float] | None = None
    facts: dict[str, object] = field(default_factory=dict)
    pictures: list[tuple[str, Image.Image]] = field(default_factory=list)
    classes: dict[str, float] = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True)
class Protocol:
    """One benchmark. name: the command; title: data, model and schedule in one line; columns: of its table, in order.

    check: data folder -> lines that say what is there; raises BadInput naming what is missing and how to get it.
    run: does it; raises BadInput, TrainingFailed, Interrupted."""

    name: str
    title: str
    columns: tuple[str, ...]
    check: Callable[[Path], list[str]]
    run: Callable[[Job], Outcome]


@dataclass(frozen=True)
class App:
    """Protocols under one name. `doctor` gives the checks of the machine; `options` adds what only this app has."""

    name: str
    description: str
    examples: str
    protocols: tuple[Protocol, ...]
    doctor: Callable[[], list[tuple[str, Callable[[], str]]]]
    options: Callable[[argparse.ArgumentParser, str], None] = lambda parser, protocol: None
