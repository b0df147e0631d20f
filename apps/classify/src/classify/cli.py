"""Command line: one command for each benchmark, `all`, `resume` and `compare`. `--help` does not import torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from steady_runs import (
    BadInput,
    Command,
    Program,
    RunFolder,
    checked,
    fail,
    parse_options,
    run_argument,
    run_program,
)

from classify.benchmarks import ALL, BENCHMARKS, settings_of
from classify.protocols import LINEAR, MHEAD
from classify.settings import ON_RESUME, Common

ALL_WHAT = "every benchmark that fits the data, but semi, from one pass over the images"
RESUME_WHAT = "go on after any stop; RUN is a run folder"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program. Exit code: 0 done, 2 bad input, 130 interrupted; `steady_runs.command_line` has the others."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0].startswith("--") and arguments[0] not in ("--help", "--version", "--traceback"):
        return fail("classify", f"a command comes first, such as: classify all {' '.join(arguments)}", 2)
    return run_program(_program(), arguments)


def _program() -> Program:
    return Program(
        "classify",
        "Every classification benchmark of a backbone. Figures are in percent.",
        (
            *(Command(name, benchmark.what, partial(_measure, name)) for name, benchmark in BENCHMARKS.items()),
            Command(ALL, ALL_WHAT, partial(_measure, ALL)),
            Command("resume", RESUME_WHAT, _resume, "RUN [options]"),
            Command("compare", "results of several runs side by side", _compare, "RUN ..."),
        ),
        _more(),
    )


def _more() -> str:
    presets = [(name, preset.what) for name, preset in (LINEAR | MHEAD).items()]
    presets.append(("svm_voc07", "VOC2007, 19 costs, three folds"))
    return "\n".join(
        [
            "",
            "examples:",
            "  uv run apps/classify all                                  newest run, the images it was trained on",
            "  uv run apps/classify knn --weights swav_800ep_pretrain.pth.tar --data imagenet:PATH",
            "  uv run apps/classify svm --weights runs/odc-1 --data voc07:VOCdevkit",
            "  uv run apps/classify resume runs/classify-all-1",
            "  uv run apps/classify compare runs/classify-all-1 runs/classify-all-2",
            "",
            "presets (--preset of linear, mhead and svm):",
            *(f"  {name:48} {what}" for name, what in presets),
        ]
    )


def _measure(command: str, arguments: list[str]) -> None:
    model = settings_of(command)
    what = ALL_WHAT if command == ALL else BENCHMARKS[command].what
    settings = checked(model, parse_options(arguments, model, program=f"classify {command}", description=what))
    from classify.run import run  # imports torch, which takes seconds

    run(command, settings)


def _resume(arguments: list[str]) -> None:
    program = "classify resume RUN"
    if "--help" in arguments or "-h" in arguments:
        parse_options(["--help"], Common, program=program, description=RESUME_WHAT, allowed=ON_RESUME)
    path, rest = run_argument(arguments, "classify resume")
    folder = RunFolder.existing(path)
    if folder.results.exists():
        raise BadInput(f"{path}: finished; nothing to resume")
    values = folder.read_settings()
    command, inputs = values.pop("command", None), values.pop("inputs", None)
    if command not in (*BENCHMARKS, ALL) or not isinstance(inputs, dict):
        raise BadInput(f"{path}: not a run of classify")
    model = settings_of(command)
    settings = checked(model, values, source=str(folder.settings_file))
    changed = parse_options(rest, model, program=program, defaults=settings, allowed=ON_RESUME)
    settings = checked(model, settings.model_dump() | changed)
    from classify.run import Resumed, run

    run(command, settings, Resumed(folder, inputs))


def _compare(arguments: list[str]) -> None:
    from rich.console import Console

    from classify.results import read, tables

    if "--help" in arguments or "-h" in arguments:
        print("usage: classify compare RUN ...\n\nRUN is a folder that classify wrote, or its results.json.")
        return
    if not arguments:
        raise BadInput("needs run folders, such as: classify compare runs/classify-all-1 runs/classify-all-2")
    for table in tables([(Path(run).name or run, read(run)) for run in arguments]):
        Console(emoji=False).print(table)
