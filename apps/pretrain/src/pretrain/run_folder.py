"""The files of a run. Each is either whole or not there: written beside its place, flushed, then renamed.

config.toml           the settings, whole: `pretrain --recipe config.toml` repeats the run
metrics.jsonl         one JSON object a line; the last has "final": true
checkpoint.pt         all that `resume` needs, and checkpoint.previous.pt, the one before: checkpoint.py
backbone.safetensors  the result
report.html           the result, for people
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pretrain.config import Settings
from pretrain.errors import BadInput
from pretrain.recipe_files import build, dump, read_recipe


class RunFolder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.metrics = path / "metrics.jsonl"
        self.backbone = path / "backbone.safetensors"
        self.report = path / "report.html"

    @classmethod
    def create(cls, out: str | None, settings: Settings) -> RunFolder:
        path = Path(out) if out else _next_free(Path("runs"), settings.method)
        if os.path.exists(path / "config.toml"):
            raise BadInput(f"--out {path}: there is a run already; `pretrain resume {path}`, or another --out")
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            why = getattr(error, "strerror", error)
            raise BadInput(f"--out {path}: cannot write there ({why}); choose another --out") from None
        return cls(path)

    @classmethod
    def of_restart(cls, settings: Settings) -> RunFolder | None:
        """Where torchrun or Slurm has started this very command anew: the folder that it made the time before."""
        if not any(int(os.environ.get(name, 0)) for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")):
            return None
        candidates = [Path(settings.out)] if settings.out else sorted(Path("runs").glob(f"{settings.method}-*"))
        for path in reversed(sorted(candidates, key=_age)):
            if (path / "config.toml").exists() and cls.open(str(path))[1] == settings:
                return cls(path)
        return None

    @classmethod
    def nowhere(cls) -> RunFolder:
        """For ranks that write nothing."""
        return cls(Path(os.devnull))

    @classmethod
    def open(cls, path: str) -> tuple[RunFolder, Settings]:
        folder = cls(Path(path))
        if not os.path.exists(folder.config):  # Path.exists raises for names that are too long
            raise BadInput(
                f"{path}: not a run (no config.toml); give the folder that the run printed, such as runs/odc-1"
            )
        values, _ = read_recipe(str(folder.config))
        return folder, build(values, str(folder.config))

    def write_config(self, settings: Settings) -> None:
        _replace(self.config, (dump(settings)).encode())

    def write_report(self, html: str) -> None:
        _replace(self.report, html.encode())

    def append_metrics(self, figures: dict[str, Any]) -> None:
        with self.metrics.open("a") as file:
            file.write(json.dumps(figures) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        if not self.metrics.exists():
            return []
        # what follows the last line break is a line that was being written when the process died
        *lines, _ = self.metrics.read_bytes().split(b"\n")
        try:
            return [json.loads(line) for line in lines]
        except ValueError:
            raise BadInput(f"{self.metrics}: a line in it is damaged; remove that line, then resume") from None

    def keep_metrics(self, lines: Iterable[dict[str, Any]]) -> None:
        """Replace metrics.jsonl, such as by the lines up to the checkpoint that a run resumes from."""
        _replace(self.metrics, "".join(json.dumps(line) + "\n" for line in lines).encode())


def _age(folder: Path) -> float:
    return folder.stat().st_mtime if folder.exists() else 0.0


def _next_free(root: Path, method: str) -> Path:
    n = 1
    while (root / f"{method}-{n}").exists():
        n += 1
    return root / f"{method}-{n}"


def _replace(path: Path, content: bytes) -> None:
    part = path.with_suffix(path.suffix + ".part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
