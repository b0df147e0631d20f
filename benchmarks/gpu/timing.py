"""Several ways to do one thing, timed in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def now(device: torch.device) -> float:
    """Seconds, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def in_turn(sides: dict[str, Callable[[], Any]], device: torch.device, rounds: int) -> dict[str, float]:
    """Median milliseconds of each side, after one call to warm up. The sides take turns, so that a machine that slows
    down slows all of them.

    A side is called as often in a round as fills 20 ms: reading the clock waits for the GPU, and one short call would
    be timed with that wait."""
    often = {}
    for name, side in sides.items():
        side()
        began = now(device)
        side()
        often[name] = max(1, min(200, round(0.02 / max(now(device) - began, 1e-6)))) if device.type == "cuda" else 1
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            began = now(device)
            for _ in range(often[name]):
                side()
            taken[name].append((now(device) - began) / often[name])
    return {name: 1000 * statistics.median(seconds) for name, seconds in taken.items()}


def beside_ours(milliseconds: dict[str, float], ours: str) -> dict[str, float]:
    """The same, and each other side over `ours`: above 1, ours is faster."""
    figures = {f"{name}, ms": ms for name, ms in milliseconds.items()}
    return figures | {f"{name} / ours": ms / milliseconds[ours] for name, ms in milliseconds.items() if name != ours}
