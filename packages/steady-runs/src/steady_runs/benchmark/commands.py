"""Commands of a benchmark program: one for each protocol, `resume`, `compare` and `doctor`."""

from __future__ import annotations

import functools
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import PositiveInt

from steady_runs.benchmark.app import App, Job, Protocol
from steady_runs.benchmark.compare import read_results, run_names, tables
from steady_runs.benchmark.doctor import diagnose
from steady_runs.benchmark.options import BenchmarkSettings
from steady_runs.benchmark.results import record
from steady_runs.benchmark.weights import FACTS
from steady_runs.command_line import Command, Program, run_argument, run_program
from steady_runs.errors import BadInput
from steady_runs.folder import RunFolder
from steady_runs.lock import FolderLock
from steady_runs.options import parse_options
from steady_runs.progress import Progress, duration
from steady_runs.ranks import launch, ranks
from steady_runs.settings import Settings, checked
from steady_runs.stop import StopSignal


class _Resume(Settings):
    """machine"""

    gpus: PositiveInt = 1
    """number of processes, one per GPU; more than one starts torchrun"""


def run_app(app: App, argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (`sys.argv` if None) names.

    Args:
        app: The benchmarks.
        argv: Arguments without the program's name.

    Returns:
        The exit code: 0 done, 1 a fault of the program, 2 bad input, 3 training failed, 130 interrupted.
    """
    commands = [
        *(Command(p.name, p.title, functools.partial(_protocol, app, p)) for p in app.protocols),
        Command("resume", "continue a run that was interrupted", functools.partial(_resume, app), "RUN [options]"),
        Command("compare", "results of several runs side by side", functools.partial(_compare, app), "RUN ..."),
        Command("doctor", "check that this machine has what the benchmarks need", functools.partial(_doctor, app), ""),
    ]
    return run_program(Program(app.name, app.description, tuple(commands), app.examples), argv)


def _protocol(app: App, protocol: Protocol[Any], arguments: list[str]) -> None:
    program = f"{app.name} {protocol.name}"
    given = parse_options(arguments, protocol.settings, program=program, description=protocol.title)
    options = checked(protocol.settings, given)
    if options.check_data:
        _check_data(protocol, options.data)
        return
    if options.data == "shapes":
        options = protocol.shrink(options)
    _launch_or_run(app, protocol, options, [protocol.name, *arguments], None)


def _check_data(protocol: Protocol[Any], data: str) -> None:
    if data == "shapes":
        raise BadInput("--check-data needs --data FOLDER: drawn images are made when a run needs them")
    for line in protocol.check(Path(data)):
        print(line)


def _resume(app: App, arguments: list[str]) -> None:
    program = f"{app.name} resume"
    if _asks_for_help(arguments):
        parse_options(["--help"], _Resume, program=f"{program} RUN", description="Continue a run that was interrupted.")
    run, rest = run_argument(arguments, program)
    gpus = checked(_Resume, parse_options(rest, _Resume, program=f"{program} RUN")).gpus
    folder = RunFolder.existing(run)
    if folder.results.exists():
        raise BadInput(f"{run}: finished; nothing to resume")
    protocol, options = _saved_settings(app, folder)
    options = options.model_copy(update={"gpus": gpus})
    _launch_or_run(app, protocol, options, ["resume", *arguments], folder)


def _saved_settings(app: App, folder: RunFolder) -> tuple[Protocol[Any], BenchmarkSettings]:
    """The protocol and the settings of a run that was started earlier."""
    saved = folder.read_settings()
    protocol = next((p for p in app.protocols if p.name == saved.get("command")), None)
    if protocol is None:
        raise BadInput(f"{folder.settings_file}: no run of {app.name} (command {saved.get('command')!r})")
    values = {name: value for name, value in saved.items() if name not in FACTS}
    return protocol, checked(protocol.settings, values, source=str(folder.settings_file))


def _compare(app: App, arguments: list[str]) -> None:
    options = [one for one in arguments if one.startswith("-")]
    program = f"{app.name} compare RUN ..."
    parse_options(options, Settings, program=program, description="Print the results of finished runs side by side.")
    if not arguments:
        raise BadInput(f"needs the folders of finished runs, such as: {app.name} compare runs/NAME-1 runs/NAME-2")
    results = [read_results(run) for run in arguments]
    print("\n\n".join(_fitted(list(zip(run_names(arguments), results, strict=True)))))


def _doctor(app: App, arguments: list[str]) -> int:
    parse_options(arguments, Settings, program=f"{app.name} doctor", description="Check this machine.")
    return 0 if diagnose(app.doctor()) else 2


def _asks_for_help(arguments: Sequence[str]) -> bool:
    return any(one in ("-h", "--help") for one in arguments)


def _fitted(named: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    return tables(named, shutil.get_terminal_size().columns)


def _launch_or_run(
    app: App, protocol: Protocol[Any], options: BenchmarkSettings, arguments: list[str], resumed: RunFolder | None
) -> None:
    """Run in this process, or start torchrun with one process per GPU if `--gpus` asks for several."""
    rank, world = ranks()
    if options.gpus > 1 and world == 1:
        launch(app.name, arguments, options.gpus)
    began = time.monotonic()
    progress = Progress(quiet=options.quiet, main=rank == 0)
    with StopSignal() as stop, progress, _open_folder(app, options, resumed, rank, progress) as folder:
        outcome = protocol.run(Job(options, folder, progress, stop, resumed is not None, rank, world))
        if rank > 0:
            return
        from steady_runs.benchmark.report import render_report  # here, as it imports matplotlib

        wall = time.monotonic() - began
        results = record(app.name, protocol, folder.read_settings(), outcome, wall)
        folder.append_metrics({"final": True, "wall_s": round(wall, 1), **outcome.metrics})
        folder.write_report(render_report(results, folder.read_metrics(), outcome.pictures))
        folder.write_results(results)
        for table in _fitted([(folder.path.resolve().name, results)]):
            progress.say(table, even_quiet=True)
        progress.say(f"results    {folder.results}\nreport     {folder.report}", even_quiet=True)
        progress.say(f"took       {duration(wall)}", even_quiet=True)


@contextmanager
def _open_folder(
    app: App, options: BenchmarkSettings, resumed: RunFolder | None, rank: int, progress: Progress
) -> Iterator[RunFolder]:
    """The run folder, locked by rank 0 and removed afterwards if nothing was written to it.

    Toolboxes write to their folder on every rank, so the other ranks of a new run get a temporary folder.
    """
    if rank > 0 and resumed is not None:
        yield resumed
        return
    if rank > 0:
        with tempfile.TemporaryDirectory(prefix=f"{app.name}-rank-{rank}-", ignore_cleanup_errors=True) as path:
            yield RunFolder(Path(path))
        return
    folder = resumed or RunFolder.create(options.out, f"{app.name}-{options.command}")
    with FolderLock(folder.path) as lock:
        if lock.warning is not None:
            progress.say(lock.warning)
        if resumed is None:
            folder.write_settings(options.model_dump())
        try:
            yield folder
        finally:
            folder.remove_if_unused()
