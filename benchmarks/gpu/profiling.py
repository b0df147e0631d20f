"""A few steps under torch.profiler, as a short text and three figures."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.autograd import DeviceType

N_LINES = 12


class Profile:
    """begin() and end() around `n_steps` steps; then `figures()`."""

    def __init__(self, n_steps: int = 3) -> None:
        self.n_steps = n_steps
        self._profiler: Any = None
        self._wall_s = 0.0

    def begin(self) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        self._profiler = torch.profiler.profile(activities=activities, acc_events=True)
        torch.cuda.synchronize()
        self._profiler.start()
        self._wall_s = time.perf_counter()

    def end(self) -> None:
        self._host_s = time.perf_counter() - self._wall_s  # until the host has launched everything
        torch.cuda.synchronize()
        self._wall_s = time.perf_counter() - self._wall_s
        self._profiler.stop()

    def figures(self) -> dict[str, Any]:
        """Milliseconds a step; share of the time in which the GPU ran nothing; launches a step. Profiling itself makes
        the host slower, so the idle share is an upper bound."""
        on_gpu = [e for e in self._profiler.events() if e.device_type == DeviceType.CUDA and e.time_range.elapsed_us()]
        busy_us = _covered([(e.time_range.start, e.time_range.end) for e in on_gpu])
        table = self._profiler.key_averages()
        kernels = sorted((k for k in table if k.device_type == DeviceType.CUDA), key=_device_us, reverse=True)
        lines = ["ms a step   calls a step   kernel"]
        for k in kernels[:N_LINES]:
            lines.append(f"{_device_us(k) / 1000 / self.n_steps:9.3f}   {k.count / self.n_steps:12.1f}   {k.key[:90]}")
        return {
            "wall, ms a step": 1000 * self._wall_s / self.n_steps,
            "host, ms a step": 1000 * self._host_s / self.n_steps,
            "GPU busy, ms a step": busy_us / 1000 / self.n_steps,
            "GPU idle share": max(0.0, 1 - busy_us / 1e6 / self._wall_s),
            "kernels a step": len(on_gpu) / self.n_steps,
            "text": "\n".join(lines),
        }


def _device_us(average: Any) -> float:
    return float(average.self_device_time_total)


def _covered(intervals: list[tuple[float, float]]) -> float:
    """Length of the union."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
