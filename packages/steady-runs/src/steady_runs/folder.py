"""The folder of a run. Every file in it is either whole or absent: written beside its place, flushed, then renamed.

metrics.jsonl   one JSON object a line: step, loss, scores; the last line has "final": true
results.json    the result, with everything that led to it
report.html     the result, for people
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

from steady_runs.errors import BadInput
from steady_runs.lock import FILE as LOCK

JSON = dict[str, Any]


class RunFolder:
    """A folder that holds one run.

    A program names, as `settings_name`, the file with the settings of its runs: a folder that has it is a run.
    """

    settings_name: ClassVar[str] = "settings.json"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings_file = path / self.settings_name
        self.metrics = path / "metrics.jsonl"
        self.results = path / "results.json"
        self.report = path / "report.html"

    @classmethod
    def create(cls, out: str | None, name: str) -> Self:
        """Make the folder `out`, or else the next free one of runs/NAME-1, runs/NAME-2, ...

        Raises:
            BadInput: If it holds a run already or cannot be written.
        """
        path = Path(out) if out else _make_next_free(Path("runs"), name)
        if os.path.exists(path / cls.settings_name) or os.path.exists(path / "results.json"):
            raise BadInput(f"--out {path}: there is a run already; `resume {path}`, or another --out")
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            why = getattr(error, "strerror", None) or error
            raise BadInput(f"--out {path}: cannot write there ({why}); choose another --out") from None
        return cls(path)

    @classmethod
    def existing(cls, path: str | Path) -> Self:
        """The folder of a run that was begun earlier. Raises BadInput if there is no run."""
        folder = cls(Path(path))
        if not os.path.exists(folder.settings_file):  # Path.exists raises for names that are too long
            raise BadInput(f"{path}: not a run (no {cls.settings_name}); give the folder that the run printed")
        return folder

    @classmethod
    def nowhere(cls) -> Self:
        """For ranks that write nothing."""
        return cls(Path(os.devnull))

    def write_settings(self, settings: JSON) -> None:
        """Write the settings as JSON. A program with another format overrides this and `read_settings`."""
        replace(self.settings_file, json.dumps(settings, indent=2) + "\n")

    def read_settings(self) -> JSON:
        try:
            settings: JSON = json.loads(self.settings_file.read_text())
        except (OSError, ValueError) as error:
            raise BadInput(f"{self.settings_file}: cannot be read ({error})") from None
        return settings

    def append_metrics(self, figures: JSON) -> None:
        with self.metrics.open("a") as file:
            file.write(json.dumps(figures) + "\n")

    def read_metrics(self) -> list[JSON]:
        """All whole lines. A last line without a line break was being written when the process died, and is left out.

        Raises:
            BadInput: If a whole line is not JSON.
        """
        if not self.metrics.exists():
            return []
        *lines, _ = self.metrics.read_bytes().split(b"\n")
        try:
            return [json.loads(line) for line in lines]
        except ValueError:
            raise BadInput(f"{self.metrics}: a line in it is damaged; remove that line, then resume") from None

    def keep_metrics(self, wanted: Callable[[JSON], bool]) -> None:
        """Drop the other lines, such as those after the checkpoint that a run resumes from."""
        lines = [line for line in self.read_metrics() if wanted(line)]
        replace(self.metrics, "".join(json.dumps(line) + "\n" for line in lines))

    def write_results(self, results: JSON) -> None:
        replace(self.results, json.dumps(results, indent=2) + "\n")

    def write_report(self, html: str) -> None:
        replace(self.report, html)

    def remove_if_unused(self) -> None:
        """Remove the folder of a run that failed before it wrote anything but its settings.

        Call it while holding the `FolderLock`, whose file is removed as well, or after releasing it.
        """
        if {p.name for p in self.path.iterdir()} <= {self.settings_name, LOCK}:
            self.settings_file.unlink(missing_ok=True)
            (self.path / LOCK).unlink(missing_ok=True)
            self.path.rmdir()


def replace(path: Path, content: str | bytes) -> None:
    """Write a file such that it is the old one or the new one, whole, whenever the process dies."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _make_next_free(root: Path, name: str) -> Path:
    """Make the first of NAME-1, NAME-2, ... that does not exist. Processes that start together get different ones."""
    n = 1
    while True:
        path = root / f"{name}-{n}"
        try:
            path.mkdir(parents=True)
            return path
        except OSError:
            if not os.path.lexists(path):  # it cannot be made; `RunFolder.create` fails in the same way and says why
                return path
            n += 1
