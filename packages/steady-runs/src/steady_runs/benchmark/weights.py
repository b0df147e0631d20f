"""Which backbone a run measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steady_runs.benchmark.app import Job
from steady_runs.errors import BadInput

# What settings.json holds beside the options, so that a resumed run does not need the weights file
FACTS = ("architecture", "weights_are")


@dataclass(frozen=True)
class Weights:
    """The backbone of a run.

    Attributes:
        backbone: The network.
        file: Absolute path of the file to load into the benchmark's model. None if the weights are random, and in a
            resumed run, whose checkpoint holds the weights.
        what: One line that describes the weights.
        source: Absolute path of the file that the user or the newest run gave, also in a resumed run; None if there was
            none.
    """

    backbone: Any
    file: str | None
    what: str
    source: str | None = None


def read_weights(
    job: Job[Any],
    load: Callable[[Path], tuple[Any, Any]],
    build: Callable[..., Any],
    describe: Callable[[Any], dict[str, Any]],
    runs: Path = Path("runs"),
) -> Weights:
    """Read the backbone of `--weights`, or the newest one under `runs`, or build a random ResNet-18 if there is none.

    With `--random-init` the architecture is kept and the weights are random. The choice is written to settings.json,
    so `resume` needs neither the file nor `runs`.

    Args:
        job: The run.
        load: file -> (network, report); raises OSError or ValueError with a message of one line.
        build: Called as `build(**architecture, seed=seed)`; returns a network with random weights.
        describe: network -> its architecture, as keyword arguments of `build`.
        runs: Folder of pretraining runs.

    Raises:
        BadInput: If the file cannot be read.
    """
    options = job.options
    if job.resumed:
        settings = job.folder.read_settings()
        if "architecture" not in settings:
            raise BadInput(f"{job.folder.path}: the run ended before it had read its weights; start it anew")
        backbone = build(**settings["architecture"], seed=options.seed)
        return Weights(backbone, None, settings["weights_are"], options.weights)
    file, source = _file(options.weights, runs), options.weights
    if file is None:
        backbone = build(arch="resnet18", seed=options.seed)
        what = "resnet18 with random weights, as there is no --weights and no run under runs/"
    else:
        try:
            backbone, report = load(file)
        except (OSError, ValueError) as error:
            raise BadInput(f"--weights {error}") from None
        source, what = str(file.resolve()), str(report)
        if options.random_init:
            file, backbone = None, build(**describe(backbone), seed=options.seed)
            what = f"{describe(backbone)['arch']} with random weights (seed {options.seed})"
    if job.rank == 0:
        facts = dict(zip(FACTS, (describe(backbone), what), strict=True))
        job.folder.write_settings(options.model_dump() | {"weights": source} | facts)
    return Weights(backbone, None if file is None else source, what, source)


def _file(weights: str | None, runs: Path) -> Path | None:
    """The file of `--weights`, or else the newest backbone under `runs`."""
    if weights is not None:
        path = Path(weights)
        return path / "backbone.safetensors" if path.is_dir() else path
    found = sorted(runs.glob("*/backbone.safetensors"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None
