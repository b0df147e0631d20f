"""What an app gives to a benchmark program, and what the program gives back to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from steady_runs.benchmark.options import BenchmarkSettings
from steady_runs.folder import RunFolder
from steady_runs.progress import Progress
from steady_runs.stop import StopSignal

if TYPE_CHECKING:
    from PIL import Image

S = TypeVar("S", bound=BenchmarkSettings)


@dataclass(frozen=True)
class Job(Generic[S]):
    """One run, as it is handed to `Protocol.run`.

    Attributes:
        options: Settings of the run.
        folder: Where the run writes. Ranks other than 0 get a temporary folder, unless the run is resumed.
        progress: Terminal output; silent on ranks other than 0.
        stop: Set by Ctrl-C and SIGTERM.
        resumed: Whether the folder holds a run to continue.
        rank: Rank of this process.
        world: Number of processes.
    """

    options: S
    folder: RunFolder
    progress: Progress
    stop: StopSignal
    resumed: bool = False
    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Outcome:
    """The result of a run.

    Attributes:
        metrics: {column of the published table: percent}.
        untrained: The same metrics before training; None if they were not measured.
        facts: Further entries of results.json. The report needs `weights`, `data` and `changes`.
        pictures: (caption, image) pairs for the report, with truth and prediction side by side.
        classes: {class name: percent} of the main metric, if the evaluator reports it; None for a class that does not
            occur.
        title: Replaces the protocol's title if an option changes what is compared. Runs with one title share a table.
    """

    metrics: dict[str, float]
    untrained: dict[str, float] | None = None
    facts: dict[str, object] = field(default_factory=dict)
    pictures: list[tuple[str, Image.Image]] = field(default_factory=list)
    classes: dict[str, float] = field(default_factory=dict)
    title: str = ""


def _unchanged(options: Any) -> Any:
    return options


@dataclass(frozen=True)
class Protocol(Generic[S]):
    """One benchmark, which becomes one command.

    Attributes:
        name: Name of the command; the same as the fixed `command` field of `settings`.
        title: Data, model and schedule in one line.
        columns: Columns of the results table, in order.
        settings: Settings of the command.
        check: Returns lines that describe the data folder; raises BadInput if something is missing.
        run: Trains and scores; raises BadInput, TrainingFailed or Interrupted.
        shrink: Returns the settings for drawn images: a copy with small values for what the user left open.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    settings: type[S]
    check: Callable[[Path], list[str]]
    run: Callable[[Job[S]], Outcome]
    shrink: Callable[[S], S] = _unchanged


@dataclass(frozen=True)
class App:
    """A program of several benchmarks.

    Attributes:
        name: Name of the program and of its distribution. It must run as `python -m NAME`.
        description: One line for `--help`.
        examples: Printed below the commands in `--help`.
        protocols: One command each.
        doctor: Returns the checks of `doctor`: (name, function that returns a line or raises).
    """

    name: str
    description: str
    examples: str
    protocols: tuple[Protocol[Any], ...]
    doctor: Callable[[], list[tuple[str, Callable[[], str]]]]
