"""SwAV by Lightly: its loss, head, prototypes, transform and data set, put together as its documentation does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightly.data import LightlyDataset
from lightly.loss import SwaVLoss
from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes
from lightly.transforms.swav_transform import SwaVTransform
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchmarks.quality.entrants import rival
from benchmarks.quality.job import Job, Outcome


class LightlySwav(rival.Rival):
    def __init__(self, backbone: Any, settings: dict[str, Any], n_images: int) -> None:
        super().__init__(backbone, settings, n_images)
        self.head = SwaVProjectionHead(backbone.num_features, settings["hidden"], settings["dim"])
        self.prototypes = SwaVPrototypes(settings["dim"], settings["k"])
        self.criterion = SwaVLoss()
        self.network = nn.ModuleList([backbone, self.head, self.prototypes])
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.lr, weight_decay=settings["weight_decay"])

    def transform(self) -> Any:
        s = self.settings
        low, high = s["scale"]
        return SwaVTransform(
            crop_sizes=(s["size"],),
            crop_counts=(2,),
            crop_min_scales=(low,),
            crop_max_scales=(high,),
            cj_strength=s["cj_strength"],
            gaussian_blur=0.0,
            normalize=s["normalise"],
        )

    def dataset(self, pixels: np.ndarray) -> Dataset[Any]:
        images: Dataset[Any] = LightlyDataset.from_torch_dataset(rival.PilImages(pixels), transform=self.transform())
        return images

    def loss(self, crops: list[Tensor], indices: Tensor) -> Tensor:
        self.prototypes.normalize()
        scores = [self.prototypes(nn.functional.normalize(self.head(self.backbone(crop)), dim=1)) for crop in crops]
        found: Tensor = self.criterion(scores, [])
        return found


def run(job: Job) -> Outcome:
    return rival.run(job, LightlySwav)
