"""Several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from steady_runs import BadInput, duration

from pretrain.run_folder import PretrainFolder


def table(runs: Sequence[str]) -> Table:
    """A table with a row for each run folder: settings, last loss, kNN score, time. Raises BadInput."""
    made = Table(title="Pretraining", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    made.add_column("run", overflow="fold")
    for column in ("method", "data"):
        made.add_column(column, overflow="fold")
    for column in ("epochs", "step", "loss", "kNN random", "kNN top-1", "took"):
        made.add_column(column, justify="right", no_wrap=True)
    for run in runs:
        made.add_row(*_row(run))
    return made


def _row(run: str) -> list[str]:
    folder = PretrainFolder.existing(run)
    settings, lines = folder.read_config(), folder.read_metrics()
    if not lines:
        raise BadInput(f"{run}: no figures yet in {folder.metrics.name}")
    scores = [line["knn_top1"] for line in lines if "knn_top1" in line]
    losses = [line["loss"] for line in lines if "loss" in line]
    is_final = bool(lines[-1].get("final"))
    return [
        Path(run).name or run,
        settings.method,
        settings.data,
        str(settings.epochs),
        f"{lines[-1]['step']}" + ("" if is_final else " (unfinished)"),
        _figure(losses, "{:.3f}"),
        _figure(scores[:1], "{:.1f} %"),
        _figure(scores[1:], "{:.1f} %"),
        duration(lines[-1]["wall_s"]) if is_final else "",
    ]


def _figure(values: list[Any], form: str) -> str:
    return form.format(values[-1]) if values else ""
