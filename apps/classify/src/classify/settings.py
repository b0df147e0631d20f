"""Options that all benchmarks have. Each benchmark adds its own, in its file under `benchmarks/`."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt
from steady_runs import Settings
from steady_runs.image_options import ImageOptions


class Measured(Settings):
    """what is measured"""

    weights: str | None = None
    """Backbone: the folder of a run, or a file of torchvision, timm, SwAV, MMSelfSup, solo-learn and others. If left
    out, the newest run under runs/."""
    random_init: bool = False
    """Measure the same architecture with random weights instead, as the baseline of every figure."""
    data: str | None = None
    """Labelled images, such as imagenet:PATH, voc07:PATH or folder:PATH. If left out, the images that the backbone was
    trained on."""
    test: str | None = None
    """Test images. If left out, the val or test split of --data."""
    size: PositiveInt | None = None
    """Side of the crop in pixels. If left out, 224, or the size of the images where the data set holds arrays."""
    resize: PositiveInt | None = None
    """Short side in pixels before the crop. If left out, 256 for a crop of 224 and in proportion for others; the size
    of the crop if that is below 96."""
    seed: NonNegativeInt = 0
    """Seed of every random choice."""
    precision: Literal["32", "bf16"] = "32"
    """Precision of the network: float32 or bfloat16 autocast."""


class Machine(Settings):
    """machine and bookkeeping: no effect on the results"""

    out: str | None = None
    """Folder of the run. If left out, the next free one of runs/classify-COMMAND-1, -2, ..."""
    cache: str = "runs/features"
    """Folder that keeps features for later commands; '' keeps none."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs. auto is a GPU if there is one."""
    batch: PositiveInt = 128
    """Images per batch while features are extracted."""
    workers: NonNegativeInt | None = None
    """Processes that decode images. If left out, chosen by the number of cores."""
    quiet: bool = False
    """Print the tables and the paths of the results only."""


class Common(Machine, ImageOptions, Measured):
    """Options of every benchmark."""


ON_RESUME = ("cache", "device", "batch", "workers", "quiet")
"""Options that may differ when a run is resumed."""
