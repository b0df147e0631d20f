"""SwAV by solo-learn: its loss, Sinkhorn-Knopp and LARS, called from its sources."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.quality.entrants import rival
from benchmarks.quality.entrants.solo import Solo, source
from benchmarks.quality.job import Job, Outcome


class Prototypes(nn.Linear):
    """Directions: their lengths do not count."""

    def forward(self, z: Tensor) -> Tensor:
        return F.linear(z, F.normalize(self.weight))


class SoloSwav(Solo):
    def __init__(self, backbone: Any, settings: dict[str, Any], n_images: int) -> None:
        super().__init__(backbone, settings, n_images)
        self.prototypes = Prototypes(settings["dim"], settings["k"], bias=False)
        self.learn(self.prototypes)
        self.loss_function = source("losses/swav.py").swav_loss_func
        self.sinkhorn = source("utils/sinkhorn_knopp.py").SinkhornKnopp(3, settings["epsilon"])
        self.queue = torch.zeros(2, settings["queue"], settings["dim"])

    def loss(self, crops: list[Tensor], indices: Tensor) -> Tensor:
        z = [F.normalize(self.projector(self.backbone(crop))) for crop in crops]
        scores = [self.prototypes(one) for one in z]
        codes = [self.codes(one.detach(), queue) for one, queue in zip(scores, self.queue, strict=True)]
        loss: Tensor = self.loss_function(scores, codes, self.settings["temperature"])
        new = torch.stack(z).detach()
        self.queue = torch.cat([new, self.queue], 1)[:, : self.settings["queue"]]
        return loss

    @torch.no_grad()
    def codes(self, scores: Tensor, queue: Tensor) -> Tensor:
        is_queued = self.settings["queue"] and self.progress >= self.settings["queue_from"]
        everything = torch.cat([scores, self.prototypes(queue)]) if is_queued else scores
        codes: Tensor = self.sinkhorn(everything)[: len(scores)]
        return codes

    def after_backward(self) -> None:
        if self.progress < self.settings["frozen"]:
            self.prototypes.weight.grad = None


def run(job: Job) -> Outcome:
    return rival.run(job, SoloSwav)
