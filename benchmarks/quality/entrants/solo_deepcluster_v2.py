"""DeepCluster-v2 by solo-learn: its loss, k-means and LARS, called from its sources.

solo-learn's first epoch has no clusters yet, so it learns nothing. Here that pass computes no gradients, in the
rival's favour.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.quality.entrants import rival
from benchmarks.quality.entrants.solo import Solo, source
from benchmarks.quality.job import Job, Outcome


class SoloDeepClusterV2(Solo):
    def __init__(self, backbone: Any, settings: dict[str, Any], n_images: int) -> None:
        super().__init__(backbone, settings, n_images)
        self.learn()
        self.loss_function = source("losses/deepclusterv2.py").deepclusterv2_loss_func
        n_kept = n_images // settings["batch"] * settings["batch"]
        self.ks = [min(settings["k"], n_kept // 2)] * settings["heads"]
        self.kmeans = source("utils/kmeans.py").KMeans(
            **{"world_size": 1, "rank": 0, "num_large_crops": 2, "dataset_size": n_images},
            **{"proj_features_dim": settings["dim"], "num_prototypes": self.ks},
            kmeans_iters=settings["kmeans_iters"],
        )
        self.index = torch.zeros(n_kept, dtype=torch.long)
        self.embeddings = F.normalize(torch.randn(2, n_kept, settings["dim"]), dim=-1)
        self.assignments: Tensor | None = None
        self.centroids: list[Tensor] = []
        self.at = 0

    def begin_epoch(self, epoch: int) -> None:
        self.at = 0
        if epoch:
            self.assignments, self.centroids = self.kmeans.cluster_memory(self.index, self.embeddings)

    def loss(self, crops: list[Tensor], indices: Tensor) -> Tensor | None:
        with torch.set_grad_enabled(self.assignments is not None):
            z = [F.normalize(self.projector(self.backbone(crop))) for crop in crops]
        rows = slice(self.at, self.at + len(indices))
        self.index[rows] = indices
        for bank, one in zip(self.embeddings, z, strict=True):
            bank[rows] = one.detach()
        self.at += len(indices)
        if self.assignments is None:
            return None
        scores = torch.stack([torch.stack([one @ centroids.T for one in z]) for centroids in self.centroids])
        loss: Tensor = self.loss_function(scores, self.assignments[:, indices], self.settings["temperature"])
        return loss


def run(job: Job) -> Outcome:
    return rival.run(job, SoloDeepClusterV2)
