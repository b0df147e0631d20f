"""results.json, and the tables of one run or of several side by side. Importing this module does not import torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from steady_runs import BadInput

from classify.benchmark import Row
from classify.benchmarks import BENCHMARKS, FIRST_IN_TABLES

Results = dict[str, Any]


def read(run: str) -> Results:
    """The results of a run.

    Args:
        run: Folder, or its results.json.
    """
    path = Path(run) / "results.json" if Path(run).is_dir() else Path(run)
    try:
        results: Results = json.loads(path.read_text())
        results["results"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(
            f"{run}: no results there; give a folder that classify wrote, such as runs/classify-all-1"
        ) from None
    return results


def rows(results: Results) -> dict[str, list[Row]]:
    """{title: rows} of all figures, with the columns of published tables.

    Rows of one title that are chosen the same way are joined. `Benchmark.rows` says what "published" and "honest" mean.
    """
    found = results["results"]
    names = [*FIRST_IN_TABLES, *(name for name in BENCHMARKS if name not in FIRST_IN_TABLES)]
    tables: dict[str, dict[str, dict[str, str]]] = {}
    for benchmark in (BENCHMARKS[name] for name in names if name in found):
        table = tables.setdefault(benchmark.table, {})
        for choice, cells in benchmark.rows(found[benchmark.name]):
            table.setdefault(choice, {}).update(cells)
    return {title: list(table.items()) for title, table in tables.items()}


def tables(named: Sequence[tuple[str, Results]]) -> list[Table]:
    """A table for each title; a run has one row, or two where it matters how the figure was chosen.

    Args:
        named: (name, results) of each run.
    """
    found = [(name, rows(results)) for name, results in named]
    made = []
    for title in dict.fromkeys(title for _, of_run in found for title in of_run):
        lines = [(name, choice, cells) for name, of_run in found for choice, cells in of_run.get(title, [])]
        columns = list(dict.fromkeys(column for _, _, cells in lines for column in cells))
        chosen = any(choice for _, choice, _ in lines)
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for heading in [*(["run"] if len(found) > 1 else []), *(["choice"] if chosen else [])]:
            table.add_column(heading, overflow="fold", no_wrap=heading == "choice")
        for column in columns:
            table.add_column(column, justify="right", no_wrap=True)
        for name, choice, cells in lines:
            heads = [*([name] if len(found) > 1 else []), *([choice] if chosen else [])]
            table.add_row(*heads, *(cells.get(column, "") for column in columns))
        made.append(table)
    return made
