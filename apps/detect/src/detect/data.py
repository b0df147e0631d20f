"""The images of a run: a folder that was checked, or drawn ones."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from indexed_images import export_shapes
from steady_runs import Job

from detect import coco, voc

# what 2 CPU cores manage in minutes, on drawn images
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


def shrink(options: argparse.Namespace) -> None:
    """For drawn images, the small size of what the user left open."""
    for name in ("iterations", "batch", "scale"):
        setattr(options, name, getattr(options, name) or SMALL[name])


def open_data(job: Job) -> tuple[Path, tuple[str, ...], list[str]]:
    """(root, class names, lines that say what is there) of --data; drawn images are kept under runs/drawn."""
    protocol = job.options.command
    data, layout = Path(job.options.data), {"voc": voc, "coco": coco}[protocol]
    if job.options.data == "shapes":
        data = Path("runs") / "drawn" / "-".join([protocol, *map(str, DRAWN.values())])
        if not data.exists() and job.rank == 0:
            job.progress.say("drawing images, once ...")
            export_shapes(data, protocol, **DRAWN)
        while not data.exists():  # the first rank draws; the folder comes into being whole
            time.sleep(0.1)
    lines = layout.check(data) if job.rank == 0 else []
    root = voc.devkit(data) if protocol == "voc" else data
    return root.resolve(), layout.class_names(data), lines
