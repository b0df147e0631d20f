"""Online Deep Clustering (Zhan et al. 2020, arXiv:2006.10645): labels, features and network move together.

    start       features of all images -> k-means -> labels; samples memory <- features; centroids memory <- means
    every step  loss    = weighted cross-entropy(head(z), labels of the batch),  z = neck(backbone(crop))
                samples memory of the batch <- unit(m z + (1 - m) old);  its labels <- nearest centroids
                dissolve small clusters, splitting the largest in their place; loss weights <- sizes^-1/2
    every 10th  centroids <- means of their members

Both memories are `cluster_memory.OnlineClusters`; this file is the order in which they are used.
"""

# B images of this process, N of the data set, D dimension of z, K clusters

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from cluster_memory import KMeans, OnlineClusters
from sobel_resnet import OdcNeck, ResNet
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from pretrain.config import OdcSettings
from pretrain.keys import generator, key, permutation, with_replacement
from pretrain.method import Method, n_clusters, size_figures
from pretrain.parts import in_parts, mean_over_ranks
from pretrain.run import Run


class Odc(Method):
    def __init__(
        self, backbone: ResNet, settings: OdcSettings, n_images: int, group: ProcessGroup | None = None
    ) -> None:
        super().__init__()
        self.settings, self.group = settings, group
        self.k = n_clusters(settings, n_images, at_most=10_000)
        self.backbone = backbone
        self.neck = OdcNeck(
            backbone.num_features,
            settings.neck_hidden,
            settings.neck_dim,
            dropout=settings.neck_dropout,
            seed=key(settings.seed, "neck"),
        )
        self.head = nn.Linear(settings.neck_dim, self.k)
        nn.init.normal_(self.head.weight, std=0.01, generator=generator(settings.seed, "head"))
        nn.init.zeros_(self.head.bias)
        self.memory = OnlineClusters(
            n_images,
            settings.neck_dim,
            self.k,
            momentum=settings.memory_momentum,
            min_cluster=settings.min_cluster,
            seed=key(settings.seed, "memory"),
            group=group,
        )
        self.remedies = (
            f"fewer clusters (--k {max(2, self.k // 2)})",
            f"a lower learning rate (--lr {settings.lr / 3:.2g})",
            "a head that keeps up with the labels (--head-lr 10)",
        )

    def start(self, run: Run) -> None:
        # Batch statistics, as in the steps that follow: by the untrained running ones z would be another feature, and
        # the first labels would mean nothing to it. Hence also no order that a sorted folder could put in.
        order = permutation(run.n_images, self.settings.seed, "start")
        z = run.extract(lambda x: self.neck(self.backbone(x)), indices=order, batch_statistics=True)  # (N, D)
        z = F.normalize(z)[order.argsort().to(z.device)]
        clusters = KMeans(self.k, seed=key(self.settings.seed, "start")).fit(z)
        self.memory.initialise(z, clusters.assignments_)

    def begin_epoch(self, run: Run, epoch: int) -> Tensor:
        return with_replacement(run.n_images, run.steps_per_epoch * run.batch, self.settings.seed, "order", epoch)

    def loss(self, crops: list[Tensor], indices: Tensor) -> Tensor:
        z = in_parts(lambda part: self.neck(self.backbone(part)), crops, self.settings.micro_batch, self)  # (V B, D)
        self.embeddings = z.detach()
        labels = self.memory.assignments[indices].repeat(len(crops))
        weights = self.memory.loss_weights(self.settings.reweight_power)
        total = F.cross_entropy(self.head(z).float(), labels, weight=weights, reduction="sum")
        return mean_over_ranks(total, weights[labels].sum(), self.group)

    def after_step(self, run: Run, indices: Tensor) -> None:
        self.change = self.memory.update(indices, self.embeddings[: len(indices)])  # the first crop's
        if (run.step + 1) % self.settings.centroid_every == 0:
            self.memory.update_centroids()
        self.memory.split_small_clusters()

    def assign(self, run: Run) -> Tensor:
        return self.memory.assignments

    def figures(self) -> dict[str, Tensor | float]:
        return {"change": self.change} | size_figures(self.memory.counts)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The head goes without momentum, as its targets change under it."""
        others = [*self.backbone.parameters(), *self.neck.parameters()]
        head = {"params": list(self.head.parameters()), "momentum": 0.0, "lr_factor": self.settings.head_lr}
        return [{"params": others}, head]
