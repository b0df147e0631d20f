"""`compare`: the results of several runs side by side, in the columns that papers print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steady_runs.errors import BadInput

GAP = "  "


def read_results(run: str) -> dict[str, Any]:
    """Read results.json of a run folder, or of the file itself. Raises BadInput if there is none."""
    path = Path(run) / "results.json" if Path(run).is_dir() else Path(run)
    try:
        results: dict[str, Any] = json.loads(path.read_text())
        results["metrics"], results["protocol"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(f"{run}: no results there; give the folder of a finished run") from None
    return results


def tables(named: Sequence[tuple[str, dict[str, Any]]], width: int = 80) -> list[str]:
    """Format one table for each benchmark title.

    A run is one row, and one more above it with the score before training if that was measured. A name is never broken:
    where names and figures do not fit on one line, every name gets a line of its own above its figures.

    Args:
        named: (name of the run, its results) pairs.
        width: Characters on a line.
    """
    titles = dict.fromkeys(results["title"] for _, results in named)
    return [_table(title, [run for run in named if run[1]["title"] == title], width) for title in titles]


def run_names(runs: Sequence[str]) -> list[str]:
    """Folder names of the runs; the paths as given if two names are the same."""
    folders = [path if path.is_dir() else path.parent for path in (Path(run).resolve() for run in runs)]
    names = [folder.name for folder in folders]
    return names if len(set(names)) == len(names) else list(runs)


def _table(title: str, runs: Sequence[tuple[str, dict[str, Any]]], width: int) -> str:
    columns: list[str] = runs[0][1]["columns"]
    rows = []
    for name, results in runs:
        if results["untrained"] is not None:
            rows.append((f"{name} untrained", _figures(results["untrained"], columns)))
        rows.append((name, _figures(results["metrics"], columns)))
    widths = [max(len(column), *(len(figures[i]) for _, figures in rows)) for i, column in enumerate(columns)]
    longest = max(len(name) for name, _ in rows)
    own_lines = longest + sum(len(GAP) + w for w in widths) > width
    first = 0 if own_lines else longest
    lines = [f"{title} (%)", _line("", columns, first, widths)]
    for name, figures in rows:
        if own_lines:
            lines.append(name)
        lines.append(_line("" if own_lines else name, figures, first, widths))
    return "\n".join(lines)


def _line(name: str, cells: Sequence[str], first: int, widths: Sequence[int]) -> str:
    right = "".join(f"{GAP}{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"{name:{first}}{right}".rstrip()


def _figures(metrics: dict[str, float], columns: Sequence[str]) -> list[str]:
    return ["" if metrics.get(column) is None else f"{metrics[column]:.2f}" for column in columns]
