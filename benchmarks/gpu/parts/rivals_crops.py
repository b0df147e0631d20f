"""SwAV's crops beside torchvision v2, and kornia where it is there: the rows of `benchmarks/bench_multicrop_gpu.py`."""

from __future__ import annotations

import argparse

from benchmarks import bench_multicrop_gpu
from benchmarks.gpu.part import Figures, NotRun, Part


def run(part: Part) -> None:
    images, rounds = part.size((256, 20), (4, 1))
    for name, size in part.size({"2 x 224 + 6 x 96": 224, "2 x 32 + 6 x 12": 32}, {"2 x 32 + 6 x 18": 32}).items():
        given = argparse.Namespace(images=images, dtype="bfloat16", blur=0.5, jitter=0.8, rounds=rounds, size=size)
        given.smoke = part.mode != "gpu"
        rows = bench_multicrop_gpu.measure(given)
        report(part, name, rows)


def report(part: Part, name: str, rows: list[Figures]) -> None:
    ours: dict[str, float] = {}
    for backend in ("torch", "triton"):  # triton's counts where it is there
        called = bench_multicrop_gpu.OURS.format(backend=backend)
        ours |= {r["input"]: r["ms"] for r in rows if r["side"] == called and isinstance(r["ms"], float)}
    for row in rows:
        side, source = row.pop("side"), row.pop("input")
        part.try_(f"{name}, {source}: {side}", lambda row=row, source=source: figures(row, ours.get(source)))


def figures(row: Figures, ours: object) -> Figures:
    if not isinstance(row["ms"], float):
        raise NotRun(str(row["ms"]))
    return row | ({"/ ours, rendered": row["ms"] / ours} if isinstance(ours, float) else {})
