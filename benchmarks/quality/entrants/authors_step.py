"""SwAV's step, written from the paper's algorithm 1 (arXiv 2006.09882) in plain PyTorch: what one would do alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.quality.entrants import rival
from benchmarks.quality.entrants.crops import TwoCrops
from benchmarks.quality.job import Job, Outcome


class AuthorsStep(rival.Rival):
    def __init__(self, backbone: Any, settings: dict[str, Any], n_images: int) -> None:
        super().__init__(backbone, settings, n_images)
        hidden = settings["hidden"]
        self.head = nn.Sequential(
            nn.Linear(backbone.num_features, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, settings["dim"]),
        )
        self.prototypes = nn.Linear(settings["dim"], settings["k"], bias=False)
        self.network = nn.ModuleList([backbone, self.head, self.prototypes])
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=self.lr, momentum=0.9, weight_decay=settings["weight_decay"]
        )

    def transform(self) -> Any:
        return TwoCrops(self.settings)

    def loss(self, crops: list[Tensor], indices: Tensor) -> Tensor:
        with torch.no_grad():
            self.prototypes.weight.copy_(F.normalize(self.prototypes.weight))
        z = F.normalize(self.head(self.backbone(torch.cat(crops))))
        s, t = self.prototypes(z).chunk(2)
        codes_s, codes_t = self.codes(s.detach()), self.codes(t.detach())
        log_p_s, log_p_t = (F.log_softmax(scores / self.settings["temperature"], dim=1) for scores in (s, t))
        loss: Tensor = -0.5 * (codes_t * log_p_s + codes_s * log_p_t).sum(1).mean()
        return loss

    def codes(self, scores: Tensor) -> Tensor:
        """Sinkhorn-Knopp: rows that sum to 1, columns that share the batch equally."""
        q: Tensor = (scores / self.settings["epsilon"]).exp()
        for _ in range(3):
            q = q / q.sum(0, keepdim=True)
            q = q / q.sum(1, keepdim=True)
        return q

    def after_backward(self) -> None:
        if self.progress < self.settings["frozen"]:
            self.prototypes.weight.grad = None


def run(job: Job) -> Outcome:
    return rival.run(job, AuthorsStep)
