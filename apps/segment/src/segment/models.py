"""Registers our backbones, a transform and a metric with MMSegmentation.

The configs import this module through `custom_imports`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS, MODELS, TRANSFORMS
from sobel_resnet import FeatureMaps, ResNet, Stem, load_backbone
from steady_runs import BadInput


@MODELS.register_module()
class SobelResNet(FeatureMaps):
    """Feature maps of a backbone.

    Args:
        arch: `resnet18` ... `resnet101`; see `sobel_resnet.ResNet` for this and the other parts of the architecture.
        sobel: Whether a Sobel filter comes first.
        stem: `imagenet` or `cifar`.
        width: Factor on the number of channels.
        in_channels: Channels of the images.
        maps: Stages whose maps are returned.
        output_stride: Largest stride; later stages are dilated instead.
        seed: Seed of the random weights.
        weights: Backbone file that `init_weights` reads.
    """

    def __init__(
        self,
        arch: str,
        sobel: bool = False,
        stem: Stem = "imagenet",
        width: float = 1.0,
        in_channels: int = 3,
        maps: Sequence[str] = ("feature4", "feature5"),
        output_stride: Literal[8, 16, 32] = 8,
        seed: int = 0,
        weights: str | None = None,
    ) -> None:
        network = ResNet(arch, sobel, stem, width, in_channels=in_channels, seed=seed)
        super().__init__(network, maps, output_stride)
        self.weights = weights

    def init_weights(self) -> None:
        if self.weights is not None:
            self.load_state_dict(load_backbone(self.weights)[0].state_dict())


@TRANSFORMS.register_module()
class CheckLabels(BaseTransform):
    """Transform that raises BadInput for a mask with an unknown id; the loss would fail with an unclear message."""

    def __init__(self, n_classes: int) -> None:
        self.n_classes = n_classes

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        check_ids(results["gt_seg_map"], self.n_classes, results["seg_map_path"])
        return results


def check_ids(labels: np.ndarray, n_classes: int, path: object) -> None:
    """Raise BadInput if a mask has an id that is neither a class nor 255."""
    unknown = labels[(labels >= n_classes) & (labels != 255)]
    if len(unknown):
        raise BadInput(
            f"{path}: a mask holds id {unknown[0]}; ids are 0 to {n_classes - 1}, and 255 for what is ignored"
        )


@METRICS.register_module()
class ClassIoU(IoUMetric):
    """IoUMetric that also returns the IoU of each class."""

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        intersect, union = (sum(part).double() for part in list(zip(*results, strict=True))[:2])
        metrics: dict[str, float] = super().compute_metrics(results)
        for name, i, u in zip(self.dataset_meta["classes"], intersect.tolist(), union.tolist(), strict=True):
            if u:
                metrics[f"IoU of {name}"] = 100 * i / u
        return metrics
