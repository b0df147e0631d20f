"""results.json, and tables in the columns that papers print."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from steady_runs._job import Outcome, Protocol

DISTRIBUTIONS = ("torch", "torchvision", "onedl-mmcv", "onedl-mmdetection", "onedl-mmsegmentation", "onedl-mmengine")
BOOKKEEPING = ("out", "quiet", "workers", "check_data", "checkpoint_every", "gpus")


def record(
    app: str, protocol: Protocol, options: argparse.Namespace, outcome: Outcome, wall_s: float
) -> dict[str, Any]:
    """Everything a reader needs to repeat the figures; metrics in percent."""
    asked = {name: value for name, value in vars(options).items() if name not in BOOKKEEPING}
    return {
        "app": app,
        "protocol": protocol.name,
        "title": outcome.title or protocol.title,
        "columns": list(protocol.columns),
        "metrics": {name: outcome.metrics[name] for name in protocol.columns},
        "untrained": outcome.untrained,
        "classes": outcome.classes,
        **outcome.facts,
        "options": asked,
        "versions": {"python": platform.python_version()} | _versions(),
        "wall_s": round(wall_s, 1),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def table(named: Sequence[tuple[str, dict[str, Any]]]) -> list[Table]:
    """One table a benchmark; a row a run, and one more for the score before training where it was taken."""
    made = []
    for title in dict.fromkeys(results["title"] for _, results in named):
        runs = [(name, results) for name, results in named if results["title"] == title]
        one = Table(title=f"{title} (%)", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        one.add_column("", overflow="fold")
        columns = runs[0][1]["columns"]
        for column in columns:
            one.add_column(column, justify="right", no_wrap=True)
        for name, results in runs:
            if results["untrained"] is not None:
                one.add_row(f"{name} untrained", *(_figure(results["untrained"].get(c)) for c in columns))
            one.add_row(name, *(_figure(results["metrics"].get(c)) for c in columns))
        made.append(one)
    return made


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
