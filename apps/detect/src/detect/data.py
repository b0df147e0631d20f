"""The data of a run: the user's folder, or drawn images."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, TypeVar

from steady_runs.benchmark import BenchmarkSettings, Job

from detect import coco, voc

S = TypeVar("S", bound=BenchmarkSettings)

# Sizes for drawn images, with which a run takes minutes on two CPU cores
SMALL: dict[str, Any] = {
    "iterations": 400,
    "batch": 4,
    "scale": 0.08,
    "samples": 32,
    "proposals": 100,
    "found": 20,
    "channels": 64,
}
DRAWN = {"n_train": 600, "n_val": 60, "size": 64}


def shrink(options: S) -> S:
    """Return the settings with small values for what the user left open."""
    small = {name: getattr(options, name) or SMALL[name] for name in ("iterations", "batch", "scale")}
    return options.model_copy(update=small)


def open_data(job: Job[Any]) -> tuple[Path, tuple[str, ...], list[str]]:
    """Check the data folder. Drawn images are made first, under runs/drawn, if they are not there.

    Returns:
        (root folder, class names, lines that describe the data; these only on rank 0).
    """
    protocol = job.options.command
    data, layout = Path(job.options.data), {"voc": voc, "coco": coco}[protocol]
    if job.options.data == "shapes":
        data = Path("runs") / "drawn" / "-".join([protocol, *map(str, DRAWN.values())])
        if not data.exists() and job.rank == 0:
            from indexed_images import export_shapes  # here, as it imports torch

            job.progress.say("drawing images, once ...")
            export_shapes(data, protocol, **DRAWN)
        while not data.exists():  # rank 0 draws them; the finished folder is renamed to this name
            time.sleep(0.1)
    lines = layout.check(data) if job.rank == 0 else []
    root = voc.devkit(data) if protocol == "voc" else data
    return root.resolve(), layout.class_names(data), lines
