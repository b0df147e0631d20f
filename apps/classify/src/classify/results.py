"""What a benchmark leaves: results.json, tables as the field prints them, and comparisons of several."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from classify.errors import BadInput

Results = dict[str, Any]
Row = tuple[str, dict[str, str]]  # how it was chosen; {column: text}


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


def rows(results: Results) -> dict[str, list[Row]]:
    """{title: rows} of all that was measured, with the columns of published tables.

    "published" rows are chosen as the published ones are, where need be on the test set; "honest" rows never are."""
    found = results["results"]
    tables: dict[str, list[Row]] = {}
    if "svm" in found or "lowshot" in found:
        taps = found["svm"]["taps"] if "svm" in found else {}
        svm = {"published": {"SVM": f"{found['svm']['mean_ap']:.2f}"} if taps else {}, "honest": {}}
        if (named := "feature5" if len(taps) > 1 else next(iter(taps), None)) in taps:  # not the best on the test set
            svm["honest"] = {"SVM": f"{taps[named]['mean_ap']:.2f}"}
        shots = found["lowshot"]["k"] if "lowshot" in found else {}
        tables["SVM and low-shot SVM (mAP, %)"] = [
            (label, svm[label] | {f"k={k}": f"{score[choice]['mean']:.2f}" for k, score in shots.items()})
            for label, choice in (("published", "reference"), ("honest", "validated"))
        ]
    if "linear" in found or "mhead" in found:
        taps = found["mhead"]["taps"] if "mhead" in found else {}
        depths = {tap.capitalize(): f"{row['top1']:.2f}" for tap, row in taps.items()}
        made: list[Row] = [("published", depths)]
        if "linear" in found:
            linear = found["linear"]
            best = {name: max(linear[name].values(), key=lambda r: r["top1"]) for name in ("best_on_test", "last")}
            made = [("published", depths | {"AvgPool": f"{best['best_on_test']['top1']:.2f}"})]
            if "chosen" in linear:
                made.append(("honest", {"AvgPool": f"{linear['chosen']['top1']:.2f}"}))
            elif len(linear["last"]) == 1:  # with several rates, the best of them was chosen on the test set
                made.append(("honest", {"AvgPool": f"{best['last']['top1']:.2f}"}))
        tables["Linear classification (top-1, %)"] = made
    if "knn" in found:
        tables["kNN (top-1, %)"] = [("", {f"k={k}": f"{row['top1']:.2f}" for k, row in found["knn"]["k"].items()})]
    if "semi" in found:
        column = f"{100 * found['semi']['fraction']:g} % of the labels"
        made = [("published", {column: f"{found['semi']['best_on_val']['top1']:.2f}"})]
        if "chosen" in found["semi"]:
            made.append(("honest", {column: f"{found['semi']['chosen']['top1']:.2f}"}))
        tables["Fine-tuning (top-1, %)"] = made
    if "cluster" in found:
        scores = {name: f"{found['cluster'][name]:.2f}" for name in ("nmi", "ari", "accuracy", "purity")}
        tables["k-means clusters (%)"] = [("", {"K": str(found["cluster"]["k"])} | scores)]
    return tables


def tables(named: Sequence[tuple[str, Results]]) -> list[Table]:
    """One table a benchmark; a run has a row, or two where its choice matters."""
    found = [(name, rows(results)) for name, results in named]
    made = []
    for title in dict.fromkeys(title for _, of_run in found for title in of_run):
        lines = [(name, label, cells) for name, of_run in found for label, cells in of_run.get(title, [])]
        columns = list(dict.fromkeys(column for _, _, cells in lines for column in cells))
        labelled = any(label for _, label, _ in lines)
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for heading in [*(["run"] if len(found) > 1 else []), *(["choice"] if labelled else [])]:
            table.add_column(heading, overflow="fold", no_wrap=heading == "choice")
        for column in columns:
            table.add_column(column, justify="right", no_wrap=True)
        for name, label, cells in lines:
            heads = [*([name] if len(found) > 1 else []), *([label] if labelled else [])]
            table.add_row(*heads, *(cells.get(column, "") for column in columns))
        made.append(table)
    return made
