"""`doctor`: checks that this machine can run the benchmarks."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Sequence

Check = tuple[str, Callable[[], str]]


def diagnose(checks: Sequence[Check]) -> bool:
    """Run every check and print a line for each.

    Args:
        checks: (name, function) pairs. The function returns a line that describes what it found, or raises.

    Returns:
        Whether all checks passed.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    well = True
    for name, check in checks:
        try:
            mark, text = "[green]ok[/]", check()
        except Exception as error:  # imports and compiled operators fail with errors of any kind
            mark, text, well = "[red]wrong[/]", f"{type(error).__name__}: {error}".split("\n")[0], False
        table.add_row(mark, name, text)
    Console(highlight=False, emoji=False).print(table)
    return well


def python() -> str:
    """Check that reports the Python version and the system."""
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def version(distribution: str, wanted: str | None = None) -> Callable[[], str]:
    """Make a check that a distribution is installed.

    Args:
        distribution: Its name.
        wanted: The only version that passes; any version if None.
    """

    def check() -> str:
        try:
            found = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            raise RuntimeError("not installed; run with: uv run --group transfer ...") from None
        if wanted is not None and found != wanted:
            raise RuntimeError(f"version {found}, and this app was tested with {wanted}")
        return found

    return check


def gpu() -> str:
    """Check that reports the GPUs; having none passes."""
    import torch

    if not torch.cuda.is_available():
        return "none: runs on the CPU (give --scale and --iterations)"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{len(names)} x {names[0]}, CUDA {torch.version.cuda}"


def mmcv_operators() -> str:
    """Check that mmcv's RoIAlign and NMS give a known answer, on the CPU and on a GPU if there is one."""
    import torch
    from mmcv.ops import get_compiling_cuda_version, nms, roi_align

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]], device=device)
        try:
            _, kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7], device=device), 0.5)
            ones = torch.ones(1, 1, 8, 8, device=device, requires_grad=True)
            pooled = roi_align(ones, torch.tensor([[0.0, 1, 1, 5, 5]], device=device), (2, 2), 1.0, 0, "avg", True)
            pooled.sum().backward()
        except RuntimeError as error:
            if device == "cuda":
                raise RuntimeError(
                    "compiled without CUDA: set CUDA_HOME to a toolkit and build again with "
                    "`uv sync --group transfer --reinstall-package onedl-mmcv`"
                ) from None
            raise RuntimeError(f"operators do not run: {error}") from None
        if kept.tolist() != [0, 2] or not torch.allclose(pooled, torch.ones_like(pooled)):
            raise RuntimeError(f"operators give wrong results on {device}")
    return f"NMS and RoIAlign are right on {' and '.join(devices)} (compiled for CUDA: {get_compiling_cuda_version()})"
