"""SwAV's crops beside torchvision v2 and kornia: `benchmarks/bench_multicrop_gpu.py`, its rows."""

from __future__ import annotations

import argparse

from benchmarks import bench_multicrop_gpu
from benchmarks.gpu.part import Figures, NotRun, Part


def run(part: Part) -> None:
    images, rounds = part.size((256, 20), (4, 1))
    for name, size in part.size({"2 x 224 + 6 x 96": 224, "2 x 32 + 6 x 12": 32}, {"small": 32}).items():
        given = argparse.Namespace(images=images, dtype="bfloat16", blur=0.5, jitter=0.8, rounds=rounds)
        given.smoke, given.size, given.device = part.mode != "gpu", size, part.device
        rows = bench_multicrop_gpu.measure(given)
        ours = next((row["ms"] for row in rows if row["side"] == bench_multicrop_gpu.OURS), None)
        for row in rows:
            part.try_(f"{name}, {row.pop('input')}: {row.pop('side')}", lambda row=row, ours=ours: figures(row, ours))


def figures(row: Figures, ours: object) -> Figures:
    if not isinstance(row["ms"], float):
        raise NotRun(str(row["ms"]))
    return row | ({"/ ours": row["ms"] / ours} if isinstance(ours, float) else {})
