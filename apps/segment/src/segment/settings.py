"""Options of `segment voc` and `segment cityscapes`."""

from __future__ import annotations

from typing import Literal

from steady_runs.benchmark import BenchmarkSettings


class SegmentSettings(BenchmarkSettings):
    """engine"""

    engine: Literal["mmseg", "torchvision"] = "mmseg"
    """MMSegmentation, or plain torch and torchvision, which need nothing compiled but differ from the published
    protocol"""


class Voc(SegmentSettings):
    """Settings of `segment voc`."""

    command: Literal["voc"] = "voc"


class Cityscapes(SegmentSettings):
    """Settings of `segment cityscapes`."""

    command: Literal["cityscapes"] = "cityscapes"
