"""A job: one entrant, one seed, one budget, in a process and a folder of its own.

job.json       what to do, written by the race
outcome.json   what came of it, written here: times, curve, files of snapshots
scores.json    written by the scorer
"""

from __future__ import annotations

import importlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

N_SNAPSHOTS = 8  # moments of a run at which its network is kept and scored, besides the beginning


@dataclass(frozen=True)
class Job:
    """What to do.

    Attributes:
        entrant: Its name in the table.
        module: The module of `benchmarks.quality.entrants` that has `run(job)`.
        settings: Of the entrant.
        seconds: The budget.
        images: Folder of `images.prepare`.
        folder: Where everything is written.
        speeds: Folder where measured speeds of our runs are kept.
    """

    entrant: str
    module: str
    settings: dict[str, Any]
    seconds: float
    seed: int
    images: Path
    folder: Path
    speeds: Path

    def write(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "job.json"
        path.write_text(json.dumps(asdict(self), default=str, indent=1))
        return path

    @classmethod
    def read(cls, path: Path) -> Job:
        values = json.loads(path.read_text())
        return cls(**values | {name: Path(values[name]) for name in ("images", "folder", "speeds")})


@dataclass
class Outcome:
    """What came of a job. Times are seconds since the images were in memory and nothing had been computed.

    Attributes:
        mean: What the network's images are normalised with, as is std.
        command: How to repeat the run alone, for those that have a command line.
        wall_s: When the last step was done.
        steps: Optimiser steps.
        n_images: Images of all steps; an image counts each time it comes up.
        ended: "schedule" if the learning rate came to its end, "budget" if the clock ended the run before.
        curve: [seconds, steps, images, loss] now and then.
        snapshots: [seconds, steps, file] of backbones; the first is the network at random, the last the result.
        notes: Anything else worth keeping, such as versions of what is not from a package index.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    command: str = ""
    wall_s: float = 0.0
    steps: int = 0
    n_images: int = 0
    ended: str = "schedule"
    curve: list[list[float]] = field(default_factory=list)
    snapshots: list[tuple[float, int, str]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


def run_here(path: Path) -> None:
    """Run the job in this process."""
    job = Job.read(path)
    outcome: Outcome = importlib.import_module(f"benchmarks.quality.entrants.{job.module}").run(job)
    outcome.curve = thinned(outcome.curve, 100)
    partial = job.folder / "outcome.tmp"
    partial.write_text(json.dumps(asdict(outcome)))
    os.replace(partial, job.folder / "outcome.json")


def thinned(points: list[list[float]], n: int) -> list[list[float]]:
    """About `n` of the points, evenly, the last among them."""
    every = max(1, len(points) // n)
    return points[(len(points) - 1) % every :: every]
