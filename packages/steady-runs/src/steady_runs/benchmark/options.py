"""Options that every benchmark has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from steady_runs.settings import Settings


class _Measured(Settings):
    """what is measured"""

    command: str
    weights: str | None = None
    """backbone: a run folder, or a file of torchvision, SwAV, MMSelfSup, solo-learn, ...; without it, the newest
    backbone under runs/"""
    random_init: bool = False
    """keep the architecture of --weights, but start from random weights"""
    data: str = "shapes"
    """data folder in the benchmark's layout; `shapes` draws images"""
    check_data: bool = False
    """only report what --data contains and what is missing"""


class _Changed(_Measured):
    """changes to the published protocol; the results list them"""

    iterations: PositiveInt | None = None
    """training iterations; the learning-rate schedule is scaled along (default: the protocol's)"""
    batch: PositiveInt | None = None
    """images per iteration over all GPUs (default: the protocol's)"""
    lr_rule: Literal["linear", "none"] = "linear"
    """`linear` scales the learning rate with the batch size; `none` keeps the protocol's"""
    scale: Annotated[float, Field(ge=0.05, le=4)] | None = None
    """factor on all image sizes (default: 1, less for drawn images)"""
    seed: int = 0
    """seed of everything random"""


class _Machine(_Changed):
    """machine and bookkeeping"""

    gpus: PositiveInt = 1
    """number of processes, one per GPU; more than one starts torchrun"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where the network runs"""
    workers: NonNegativeInt | None = None
    """processes per GPU that load images (default: 2; 0 for drawn images)"""
    out: str | None = None
    """run folder (default: the next free one of runs/APP-COMMAND-1, -2, ...)"""
    checkpoint_every: PositiveInt | None = None
    """iterations between checkpoints (default: as often as the protocol evaluates)"""
    score_untrained: bool = False
    """also score the network before training; always done for drawn images"""
    quiet: bool = False
    """print only the result"""


class BenchmarkSettings(_Machine):
    '''Settings of a benchmark command: the options that all benchmarks have.

    Subclass it for each command, fix `command` and add the command's own options. The subclass's docstring heads these
    in `--help`.

    ```python
    class Coco(BenchmarkSettings):
        """detector"""

        command: Literal["coco"] = "coco"
        model: Literal["fpn", "c4"] = "fpn"
        # a string here is the option's help
    ```
    '''
