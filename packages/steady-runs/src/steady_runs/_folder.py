"""The files of a run. Each is either whole or not there: written beside its place, flushed, then renamed.

settings.json   command and options, all of them: what `resume` reads
metrics.jsonl   one JSON object a line: step, loss, lr, images_per_s; lines with metrics; the last has "final": true
results.json    the result, with everything that led to it
report.html     the result, for people
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from steady_runs._errors import BadInput

JSON = dict[str, Any]


class RunFolder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings = path / "settings.json"
        self.metrics = path / "metrics.jsonl"
        self.results = path / "results.json"
        self.report = path / "report.html"

    @classmethod
    def create(cls, out: str | None, name: str, settings: JSON) -> RunFolder:
        """`out`, or the next free runs/NAME-1, -2, ...; BadInput if it holds a run or cannot be written."""
        path = Path(out) if out else next_free(Path("runs"), name)
        if (path / "settings.json").exists():
            raise BadInput(f"--out {path}: there is a run already; `resume {path}`, or another --out")
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise BadInput(f"--out {path}: cannot write there ({error.strerror}); choose another --out") from None
        folder = cls(path)
        folder.write_settings(settings)
        return folder

    @classmethod
    def open(cls, path: str | Path) -> tuple[RunFolder, JSON]:
        folder = cls(Path(path))
        try:
            settings = json.loads(folder.settings.read_text())
        except (OSError, ValueError):
            raise BadInput(f"{path}: not a run (no settings.json); give the folder that the run printed") from None
        return folder, settings

    def write_settings(self, settings: JSON) -> None:
        replace(self.settings, json.dumps(settings, indent=2) + "\n")

    def append_metrics(self, figures: JSON) -> None:
        with self.metrics.open("a") as file:
            file.write(json.dumps(figures) + "\n")

    def read_metrics(self) -> list[JSON]:
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text().split("\n")[:-1]  # without what a killed process left unfinished
        return [json.loads(line) for line in lines]

    def keep_metrics(self, up_to: int) -> None:
        """Drop what was written after step `up_to`, where a run goes on."""
        kept = [line for line in self.read_metrics() if line.get("step", 0) <= up_to]
        replace(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def write_results(self, results: JSON) -> None:
        replace(self.results, json.dumps(results, indent=2) + "\n")

    def write_report(self, html: str) -> None:
        replace(self.report, html)

    def remove_if_unused(self) -> None:
        """Take a new folder away again if the run failed before its first step."""
        if {p.name for p in self.path.iterdir()} == {self.settings.name}:
            self.settings.unlink()
            self.path.rmdir()


def read_results(run: str) -> JSON:
    """results.json of a run folder, or of the file itself; BadInput if there is none."""
    path = Path(run) / "results.json" if Path(run).is_dir() else Path(run)
    try:
        results: JSON = json.loads(path.read_text())
        results["metrics"], results["protocol"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(f"{run}: no results there; give the folder of a finished run") from None
    return results


def next_free(root: Path, name: str) -> Path:
    n = 1
    while (root / f"{name}-{n}").exists():
        n += 1
    return root / f"{name}-{n}"


def replace(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
