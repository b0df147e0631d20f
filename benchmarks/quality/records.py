"""Records of runs: a JSON file each, in benchmarks/records/quality, written whole or not at all."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "benchmarks" / "records" / "quality"
PACKAGES = ("torch", "torchvision", "numpy", "lightly", "numba", "pillow")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16")

Record = dict[str, Any]


class Records:
    """The records in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, entrant: str, minutes: float, seed: int) -> Path:
        """Where the record of a run is, or will be. Networks at random have 0 minutes."""
        return self.folder / f"{entrant}-{minutes:g}min-seed{seed}.json"

    def read(self, entrant: str, minutes: float, seed: int) -> Record | None:
        path = self.path(entrant, minutes, seed)
        return json.loads(path.read_text()) if path.exists() else None

    def write(self, record: Record) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(record["entrant"], record["minutes"], record["seed"])
        partial = path.with_suffix(".tmp")
        partial.write_text(_json(record))
        os.replace(partial, path)

    def all(self) -> list[Record]:
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("*.json"))]


def _json(record: Record) -> str:
    """An entry a line, and a point of the curve a line, so that a change of a record can be read."""
    lines = []
    for name, value in record.items():
        text = json.dumps(value)
        if name in ("curve", "scores") and value:
            text = "[\n" + ",\n".join(f"    {json.dumps(point)}" for point in value) + "\n  ]"
        lines.append(f"  {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def versions() -> dict[str, str | None]:
    """Of Python and the packages that matter, and the commit of this repository ("+" if it has changes)."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found | {"cluster-ssl": commit(ROOT)}


def commit(folder: Path) -> str | None:
    """The commit of a checkout, with "+" if tracked files are changed; None if there is no checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=10", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def machine() -> dict[str, Any]:
    """Kind of processor, and those of its flags that decide the speed."""
    facts: dict[str, Any] = {"processor": platform.processor() or platform.machine(), "cpus": os.cpu_count()}
    info = Path("/proc/cpuinfo")
    if info.exists():
        values = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        values = {name.strip(): value.strip() for name, value in values.items()}
        facts["processor"] = values.get("model name", facts["processor"])
        facts["flags"] = [flag for flag in FLAGS if flag in values.get("flags", "").split()]
    return facts
