"""Steps of `train` against the bare backbone, with a profile: `benchmarks/bench_step.py`, `step_speed:cifar`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from benchmarks.bench_step import SIZES, measure
from benchmarks.gpu.part import Figures, Part
from benchmarks.gpu.profiling import Profile

BATCH = {"cifar": 512, "imagenet": 256}
METHODS = ("swav", "deepcluster_v2", "odc", "deepcluster")
THIN = {"arch": "resnet18", "width": 0.0625, "stem": "cifar", "batch": 16, "n": 200, "k": 20, "large": 16}


def run(part: Part, which: str) -> None:
    size = part.size(SIZES[which] | {"batch": BATCH[which]}, THIN)
    for method, compiled in [(method, "off") for method in METHODS] + [("swav", "on")]:  # which compiles for a minute
        name = f"{method}, batch {size['batch']}, compile {compiled}"
        part.try_(name, lambda m=method, c=compiled: speed(part, m, size, c))
        part.try_(f"{name}, profile", lambda m=method, c=compiled: profile(part, m, size, c))


def speed(part: Part, method: str, size: dict[str, Any], compiled: str) -> Figures:
    if compiled == "on":
        part.needs_gpu()
    if part.mode == "gpu":
        torch.cuda.reset_peak_memory_stats()
    found = measure(method, size, part.device, part.size(10, 1), compile=compiled)
    figures: Figures = {"ok": found.step_dtype == found.bare_dtype} | asdict(found)
    if part.mode == "gpu":
        figures["peak_mib"] = torch.cuda.max_memory_allocated() // 2**20
    return figures


def profile(part: Part, method: str, size: dict[str, Any], compiled: str) -> Figures:
    part.needs_gpu()
    found = Profile()
    measure(method, size, part.device, 1, profile=found, compile=compiled)
    return found.figures()
