"""What a benchmark leaves: results.json, tables as the field prints them, and comparisons of several."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table

from classify.errors import BadInput
from classify.protocols import TAPS

Results = dict[str, Any]
Group = tuple[str, list[str]]  # title and columns


@contextmanager
def new_folder(out: str | None, command: str, *, make: bool) -> Iterator[Path]:
    """--out, or the next free runs/classify-COMMAND-N; made, and found writable, before any work.

    Taken away again if nothing came of the work. make=False is for ranks that write nothing."""
    if out is not None:
        path = Path(out)
    else:
        n = 1
        while (path := Path("runs") / f"classify-{command}-{n}").exists():
            n += 1
    if (path / "results.json").exists():
        raise BadInput(f"--out {path}: there are results already; choose another --out")
    if not make:
        yield path
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise BadInput(f"--out {path}: cannot write there ({error.strerror}); choose another --out") from None
    try:
        yield path
    finally:
        if not any(path.iterdir()):
            path.rmdir()


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_text(text)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read(run: str) -> Results:
    path = Path(run) / "results.json" if Path(run).is_dir() else Path(run)
    try:
        results: Results = json.loads(path.read_text())
        results["results"]
    except (OSError, ValueError, KeyError):
        raise BadInput(
            f"{run}: no results there; give a folder that classify wrote, such as runs/classify-all-1"
        ) from None
    return results


def cells(results: Results) -> dict[str, dict[str, str]]:
    """{title: {column: text}} of all that was measured, in the order and the columns of published tables."""
    found = results["results"]
    tables: dict[str, dict[str, str]] = {}
    if "svm" in found or "lowshot" in found:
        row = {}
        if "svm" in found:
            row["SVM"] = f"{found['svm']['mean_ap']:.2f}"
            row["best layer"] = found["svm"]["best_tap"]
        if "lowshot" in found:
            for k, score in found["lowshot"]["k"].items():
                row[f"k={k}"] = f"{score['reference']['mean']:.2f}"
            for k, score in found["lowshot"]["k"].items():
                row[f"k={k} honest"] = f"{score['validated']['mean']:.2f}"
        tables["SVM and low-shot SVM (mAP, %)"] = row
    if "linear" in found or "mhead" in found:
        row = {}
        for tap in TAPS[:-1] if "mhead" in found else ():
            if tap in found["mhead"]["taps"]:
                row[tap.capitalize()] = f"{found['mhead']['taps'][tap]['top1']:.2f}"
        if "linear" in found:
            best = max(found["linear"]["best_on_test"].values(), key=lambda r: r["top1"])
            last = max(found["linear"]["last"].values(), key=lambda r: r["top1"])
            row |= {"AvgPool best": f"{best['top1']:.2f}", "AvgPool last": f"{last['top1']:.2f}"}
            if "chosen" in found["linear"]:
                row["AvgPool honest"] = f"{found['linear']['chosen']['top1']:.2f}"
        tables["Linear classification (top-1, %)"] = row
    if "knn" in found:
        tables["kNN (top-1, %)"] = {f"k={k}": f"{row['top1']:.2f}" for k, row in found["knn"]["k"].items()}
    if "semi" in found:
        name = f"{100 * found['semi']['fraction']:g} % of the labels"
        row = {f"{name}, best on val": f"{found['semi']['best_on_val']['top1']:.2f}"}
        if "chosen" in found["semi"]:
            row[f"{name}, honest"] = f"{found['semi']['chosen']['top1']:.2f}"
        tables["Fine-tuning (top-1, %)"] = row
    if "cluster" in found:
        row = {name: f"{found['cluster'][name]:.2f}" for name in ("nmi", "ari", "accuracy", "purity")}
        tables["k-means clusters (%)"] = {"K": str(found["cluster"]["k"])} | row
    return tables


def tables(named: Sequence[tuple[str, Results]]) -> list[Table]:
    """One table a benchmark, a row a run."""
    rows = [(name, cells(results)) for name, results in named]
    titles = list(dict.fromkeys(title for _, found in rows for title in found))
    made = []
    for title in titles:
        columns = list(dict.fromkeys(column for _, found in rows for column in found.get(title, {})))
        table = Table(title=title, title_justify="left")
        if len(rows) > 1:
            table.add_column("run")
        for column in columns:
            table.add_column(column, justify="right")
        for name, found in rows:
            texts = [found.get(title, {}).get(column, "") for column in columns]
            table.add_row(*([name] if len(rows) > 1 else []), *texts)
        made.append(table)
    return made
