"""SimCLR by Lightly, the outsider: a method without clusters. Loss, head, transform and data set are Lightly's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightly.data import LightlyDataset
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms.simclr_transform import SimCLRTransform
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchmarks.quality.entrants import rival
from benchmarks.quality.job import Job, Outcome


class LightlySimclr(rival.Rival):
    def __init__(self, backbone: Any, settings: dict[str, Any], n_images: int) -> None:
        super().__init__(backbone, settings, n_images)
        self.head = SimCLRProjectionHead(backbone.num_features, settings["hidden"], settings["dim"])
        self.criterion = NTXentLoss(temperature=settings["temperature"])
        self.network = nn.ModuleList([backbone, self.head])
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=self.lr, momentum=0.9, weight_decay=settings["weight_decay"]
        )

    def transform(self) -> Any:
        s = self.settings  # the scale of the crops has a lower end only
        return SimCLRTransform(
            input_size=s["size"],
            min_scale=s["scale"][0],
            cj_strength=s["cj_strength"],
            gaussian_blur=0.0,
            normalize=s["normalise"],
        )

    def dataset(self, pixels: np.ndarray) -> Dataset[Any]:
        images: Dataset[Any] = LightlyDataset.from_torch_dataset(rival.PilImages(pixels), transform=self.transform())
        return images

    def loss(self, crops: list[Tensor], indices: Tensor) -> Tensor:
        found: Tensor = self.criterion(*(self.head(self.backbone(crop)) for crop in crops))
        return found


def run(job: Job) -> Outcome:
    return rival.run(job, LightlySimclr)
