"""The images of a run: a folder that was checked, or drawn ones."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from indexed_images import SHAPES_CLASS_NAMES, export_shapes
from steady_runs import Job

from segment import cityscapes, voc

# what 2 CPU cores manage in minutes, on drawn images
SMALL: dict[str, Any] = {"iterations": 1000, "scale": {"voc": 0.125, "cityscapes": 0.0625}}
DRAWN = {"n_train": 600, "n_val": 60, "size": 64}


def shrink(options: argparse.Namespace) -> None:
    """For drawn images, the small size of what the user left open."""
    options.iterations = options.iterations or SMALL["iterations"]
    options.scale = options.scale or SMALL["scale"][options.command]


def open_data(job: Job) -> tuple[Path, tuple[str, ...], list[str]]:
    """(root, class names, lines that say what is there) of --data; drawn images are kept under runs/drawn."""
    protocol = job.options.command
    data, layout = Path(job.options.data), {"voc": voc, "cityscapes": cityscapes}[protocol]
    classes = layout.CLASSES
    if job.options.data == "shapes":
        data = Path("runs") / "drawn" / "-".join([protocol, *map(str, DRAWN.values())])
        if not data.exists() and job.rank == 0:
            job.progress.say("drawing images, once ...")
            export_shapes(data, protocol, **DRAWN)
        while not data.exists():  # the first rank draws; the folder comes into being whole
            time.sleep(0.1)
        classes = ("background", *SHAPES_CLASS_NAMES)
    lines = layout.check(data) if job.rank == 0 else []
    root = voc.root(data) if protocol == "voc" else data
    return root.resolve(), classes, lines
