"""Which backbone a run is about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steady_runs._errors import BadInput
from steady_runs._job import Job


@dataclass(frozen=True)
class Weights:
    """A backbone, the file that holds it, and one line about it for people.

    file: None for random numbers, and where a run goes on: its checkpoint holds the numbers then."""

    backbone: Any
    file: str | None
    what: str


def read_weights(
    job: Job,
    load: Callable[[Path], tuple[Any, Any]],
    build: Callable[..., Any],
    describe: Callable[[Any], dict[str, Any]],
    runs: Path = Path("runs"),
) -> Weights:
    """The backbone of --weights, or the newest under `runs`, or a random ResNet-18 where there is none.

    load: file -> (network, report), raising OSError or ValueError in one line; build: (**architecture, seed=) ->
    network; describe: network -> architecture. --random-init keeps the architecture and draws the numbers. What was
    chosen is kept in the run's settings, so that `resume` needs neither the file nor the choice."""
    options = job.options
    if job.resumed:
        return Weights(build(**options.architecture, seed=options.seed), None, options.weights_are)
    file = _file(options.weights, runs)
    if file is None:
        backbone = build(arch="resnet18", seed=options.seed)
        what = "resnet18 with random numbers, as no --weights are given and there is no run under runs/"
    else:
        try:
            backbone, report = load(file)
        except (OSError, ValueError) as error:
            raise BadInput(f"--weights {error}") from None
        options.weights, what = str(file.resolve()), str(report)
        if options.random_init:
            file, backbone = None, build(**describe(backbone), seed=options.seed)
            what = f"{describe(backbone)['arch']} with random numbers (seed {options.seed})"
    options.architecture, options.weights_are = describe(backbone), what
    if job.rank == 0:
        job.folder.write_settings(vars(options))
    return Weights(backbone, None if file is None else str(file.resolve()), what)


def _file(weights: str | None, runs: Path) -> Path | None:
    if weights is not None:
        path = Path(weights)
        return path / "backbone.safetensors" if path.is_dir() else path
    found = sorted(runs.glob("*/backbone.safetensors"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None
