"""Steps of `train` against the bare backbone, with a profile: `benchmarks/bench_step.py`, `step_speed:cifar`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from pretrain.config import Settings

from benchmarks.bench_step import SIZES, measure
from benchmarks.gpu.part import Figures, NotRun, Part
from benchmarks.gpu.profiling import Profile

BATCH = {"cifar": 512, "imagenet": 256}
METHODS = ("swav", "deepcluster_v2", "odc", "deepcluster")
THIN = {"arch": "resnet18", "width": 0.0625, "stem": "cifar", "batch": 16, "n": 200, "k": 20, "large": 16}


def run(part: Part, which: str) -> None:
    size = part.size(SIZES[which] | {"batch": BATCH[which]}, THIN)
    compiles = "compile" in Settings.model_fields
    for method in METHODS:
        for setting in ("off", "on"):
            if setting == "on" and method != "swav":  # a compilation takes most of a minute
                continue
            more = {"compile": setting} if compiles else {}
            name = f"{method}, batch {size['batch']}, compile {setting}"
            part.try_(name, lambda m=method, s=setting, more=more: speed(part, m, size, s, more, compiles))
            part.try_(f"{name}, profile", lambda m=method, s=setting, more=more: profile(part, m, size, s, more, compiles))


def speed(part: Part, method: str, size: dict[str, Any], setting: str, more: Figures, compiles: bool) -> Figures:
    _check(part, setting, compiles)
    if part.mode == "gpu":
        torch.cuda.reset_peak_memory_stats()
    found = measure(method, size, part.device, part.size(10, 1), **more)
    figures: Figures = {"ok": found.step_dtype == found.bare_dtype} | asdict(found)
    if part.mode == "gpu":
        figures["peak_mib"] = torch.cuda.max_memory_allocated() // 2**20
    return figures


def profile(part: Part, method: str, size: dict[str, Any], setting: str, more: Figures, compiles: bool) -> Figures:
    part.needs_gpu()
    _check(part, setting, compiles)
    found = Profile()
    measure(method, size, part.device, 1, profile=found, **more)
    return found.figures()


def _check(part: Part, setting: str, compiles: bool) -> None:
    if setting == "off":
        return
    part.needs_gpu()
    if not compiles:
        raise NotRun("pretrain has no setting `compile`")
