"""`main`: from a command line to an exit code."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from steady_runs._doctor import diagnose
from steady_runs._errors import BadInput, TrainingFailed
from steady_runs._folder import RunFolder, read_results
from steady_runs._job import App, Job, Protocol
from steady_runs._launch import launch, ranks
from steady_runs._options import parser
from steady_runs._progress import Progress, duration
from steady_runs._report import render_report
from steady_runs._results import record, table
from steady_runs._stop import StopSignal


def main(app: App, argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 2 bad input, 3 training failed, 130 interrupted; each but 0 with one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _main(app, arguments or ["--help"])
    except BadInput as error:
        print(f"{app.name}: {error}", file=sys.stderr)
        return 2
    except TrainingFailed as error:
        print(f"{app.name}: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt as error:
        print(f"{app.name}: {error or 'stopped'}", file=sys.stderr)
        return 130


def _main(app: App, arguments: list[str]) -> int:
    options = parser(app).parse_args(arguments)
    if options.command == "doctor":
        console = Console(highlight=False)
        return 0 if diagnose(app.doctor(), console) else 2
    if options.command == "compare":
        console = Console()
        for one in table([(Path(run).name or run, read_results(run)) for run in options.runs]):
            console.print(one)
        return 0
    resumed = None
    if options.command == "resume":
        resumed, settings = RunFolder.open(options.run)
        if resumed.results.exists():
            raise BadInput(f"{options.run}: finished; nothing to resume")
        gpus, options = options.gpus, argparse.Namespace(**settings)
        options.gpus = gpus
    protocol = next(p for p in app.protocols if p.name == options.command)
    if options.check_data:
        return _check_data(protocol, options.data)
    rank, world = ranks()
    if options.gpus > 1 and world == 1:
        launch(app.name, arguments, options.gpus)
    _run(app, protocol, options, resumed, rank, world)
    return 0


def _check_data(protocol: Protocol, data: str) -> int:
    if data == "shapes":
        raise BadInput("--check-data: drawn images are made when they are needed; give the folder to check by --data")
    for line in protocol.check(Path(data)):
        print(line)
    return 0


def _run(
    app: App, protocol: Protocol, options: argparse.Namespace, resumed: RunFolder | None, rank: int, world: int
) -> None:
    began = time.monotonic()
    progress = Progress(quiet=options.quiet, main=rank == 0)
    with StopSignal() as stop, progress:
        folder = resumed or _new_folder(app, options, rank)
        try:
            job = Job(options, folder, progress, stop, resumed is not None, rank, world)
            outcome = protocol.run(job)
        finally:
            if rank == 0:
                folder.remove_if_unused()
            elif resumed is None:
                shutil.rmtree(folder.path, ignore_errors=True)
        if rank > 0:
            return
        wall = time.monotonic() - began
        results = record(app.name, protocol, options, outcome, wall)
        folder.append_metrics({"final": True, "wall_s": round(wall, 1), **outcome.metrics})
        folder.write_report(render_report(results, folder.read_metrics(), outcome.pictures))
        folder.write_results(results)
        for one in table([(folder.path.name, results)]):
            progress.console.print(one)
        progress.say(f"results    {folder.results}\nreport     {folder.report}", even_quiet=True)
        progress.say(f"took       {duration(wall)}", even_quiet=True)


def _new_folder(app: App, options: argparse.Namespace, rank: int) -> RunFolder:
    if rank > 0:  # toolboxes make folders on every rank; nothing of it is kept
        return RunFolder(Path(tempfile.mkdtemp(prefix=f"{app.name}-rank-{rank}-")))
    return RunFolder.create(options.out, f"{app.name}-{options.command}", vars(options))
