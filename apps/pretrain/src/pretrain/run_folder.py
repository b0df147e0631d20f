"""The files of a run. Each is either whole or not there: written beside its place, flushed, then renamed.

config.toml           the settings, whole: `pretrain --recipe config.toml` repeats the run
metrics.jsonl         one JSON object a line; the last has "final": true
checkpoint.pt         all that `resume` needs; checkpoint.previous.pt is the one before
backbone.safetensors  the result
report.html           the result, for people
"""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from pretrain.config import Settings
from pretrain.errors import BadInput
from pretrain.recipe_files import build, dump, read_recipe


class RunFolder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.metrics = path / "metrics.jsonl"
        self.checkpoint = path / "checkpoint.pt"
        self.previous = path / "checkpoint.previous.pt"
        self.backbone = path / "backbone.safetensors"
        self.report = path / "report.html"

    @classmethod
    def create(cls, out: str | None, settings: Settings) -> RunFolder:
        path = Path(out) if out else _next_free(Path("runs"), settings.method)
        if (path / "config.toml").exists():
            raise BadInput(f"--out {path}: there is a run already; `pretrain resume {path}`, or another --out")
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise BadInput(f"--out {path}: cannot write there ({error.strerror}); choose another --out") from None
        return cls(path)

    @classmethod
    def nowhere(cls) -> RunFolder:
        """For ranks that write nothing."""
        return cls(Path(os.devnull))

    @classmethod
    def open(cls, path: str) -> tuple[RunFolder, Settings]:
        folder = cls(Path(path))
        if not folder.config.exists():
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
        return [json.loads(line) for line in self.metrics.read_text().splitlines()]

    def keep_metrics(self, lines: Iterable[dict[str, Any]]) -> None:
        """Replace metrics.jsonl, such as by the lines up to the checkpoint that a run resumes from."""
        _replace(self.metrics, "".join(json.dumps(line) + "\n" for line in lines).encode())

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        part = self.checkpoint.with_suffix(".part")
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if self.checkpoint.exists():
            os.replace(self.checkpoint, self.previous)
        os.replace(part, self.checkpoint)

    def load_checkpoint(self) -> tuple[dict[str, Any], str | None]:
        """The newest checkpoint that can be read, on the CPU, and a warning if it is not the last one."""
        failures = []
        for path in (self.checkpoint, self.previous):
            try:
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            except FileNotFoundError:
                continue
            except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
                failures.append(f"{path} cannot be read ({str(error).splitlines()[0][:80]})")
            else:
                return state, f"{failures[0]}; going on from the one before" if failures else None
        raise BadInput(
            "; ".join(failures) or f"{self.path}: no checkpoint yet, so nothing to resume; start the run anew"
        )


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
