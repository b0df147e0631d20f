"""The data of a run: the user's folder, or drawn images."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, TypeVar

from steady_runs.benchmark import BenchmarkSettings, Job

from segment import cityscapes, voc

S = TypeVar("S", bound=BenchmarkSettings)

# Sizes for drawn images, with which a run takes minutes on two CPU cores
SMALL: dict[str, Any] = {"iterations": 1000, "scale": {"voc": 0.125, "cityscapes": 0.0625}}
DRAWN = {"n_train": 600, "n_val": 60, "size": 64}


def shrink(options: S) -> S:
    """Return the settings with small values for what the user left open."""
    iterations = options.iterations or SMALL["iterations"]
    scale = options.scale or SMALL["scale"][options.command]
    return options.model_copy(update={"iterations": iterations, "scale": scale})


def open_data(job: Job[Any]) -> tuple[Path, tuple[str, ...], list[str]]:
    """Check the data folder. Drawn images are made first, under runs/drawn, if they are not there.

    Returns:
        (root folder, class names, lines that describe the data; these only on rank 0).
    """
    protocol = job.options.command
    data, layout = Path(job.options.data), {"voc": voc, "cityscapes": cityscapes}[protocol]
    classes = layout.CLASSES
    if job.options.data == "shapes":
        from indexed_images import SHAPES_CLASS_NAMES, export_shapes  # here, as it imports torch

        data = Path("runs") / "drawn" / "-".join([protocol, *map(str, DRAWN.values())])
        if not data.exists() and job.rank == 0:
            job.progress.say("drawing images, once ...")
            export_shapes(data, protocol, **DRAWN)
        while not data.exists():  # rank 0 draws them; the finished folder is renamed to this name
            time.sleep(0.1)
        classes = ("background", *SHAPES_CLASS_NAMES)
    lines = layout.check(data) if job.rank == 0 else []
    root = voc.root(data) if protocol == "voc" else data
    return root.resolve(), classes, lines
