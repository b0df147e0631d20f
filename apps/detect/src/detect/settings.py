"""Options of `detect voc` and `detect coco`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator
from steady_runs.benchmark import BenchmarkSettings


class Voc(BenchmarkSettings):
    """Settings of `detect voc`, which has one model and one engine."""

    command: Literal["voc"] = "voc"
    model: Literal["c4"] = "c4"
    engine: Literal["mmdet"] = "mmdet"


class Coco(BenchmarkSettings):
    """detector"""

    command: Literal["coco"] = "coco"
    model: Literal["fpn", "c4"] = "fpn"
    """Mask R-CNN with a feature pyramid (fpn) or on one map, with layer4 in the RoI head (c4)"""
    schedule: Literal["1x", "2x"] = "1x"
    """12 epochs (1x) or 24 (2x)"""
    engine: Literal["mmdet", "torchvision"] = "mmdet"
    """MMDetection, or torchvision's Mask R-CNN, which needs nothing compiled but differs from the published protocol"""

    @model_validator(mode="after")
    def _check_engine(self) -> Self:
        if self.engine == "torchvision" and self.model != "fpn":
            raise ValueError("--engine torchvision has --model fpn only; use --engine mmdet for c4")
        return self
