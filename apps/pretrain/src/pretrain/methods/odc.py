"""Online Deep Clustering (Zhan et al. 2020, arXiv:2006.10645): labels, features and network are updated together.

    start       features of all images -> k-means -> labels; samples memory <- features; centroids memory <- means
    every step  loss    = weighted cross-entropy(head(z), labels of the batch),  z = neck(backbone(crop))
                samples memory of the batch <- unit(m z + (1 - m) old);  its labels <- nearest centroids
                dissolve small clusters, splitting the largest in their place; loss weights <- sizes^-1/2
    every 10th  centroids <- means of their members

Both memories are in `cluster_memory.OnlineClusters`. This file is the order in which they are used.
"""

# B images of this process, V crops of each, N of the data set, D dimension of z, K clusters

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from cluster_memory import KMeans, OnlineClusters
from sobel_resnet import OdcNeck, ResNet
from steady_runs.keys import generator, key, permutation, with_replacement
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from pretrain.method import Method, Remedy, n_clusters, scaled, size_figures
from pretrain.micro_batches import in_micro_batches, mean_over_ranks
from pretrain.run import Run
from pretrain.settings import OdcSettings


class Odc(Method):
    """ODC with a backbone, a neck, a head and two memories."""

    settings: OdcSettings

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
            output_bn=settings.neck_bn,
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
            bank_dtype=getattr(torch, settings.memory_dtype),
            sharded=settings.shard_memory,
        )
        self.is_sharded = settings.shard_memory and group is not None

    def start(self, run: Run) -> None:
        # Batch statistics, as in the steps that follow: with the running statistics of an untrained network z would be
        # another feature, and the first labels would not fit it. A random order, as a sorted folder would bias them.
        order = permutation(run.n_images, self.settings.seed, "start")
        seed = key(self.settings.seed, "start")
        if self.is_sharded:
            z = F.normalize(run.extract_owned(self._embed, order, self.memory.owned))  # (N of this rank, D)
            clusters = KMeans(self.k, seed=seed, group=self.group).fit(z)
        else:
            z = run.extract(self._embed, indices=order, batch_statistics=True)  # (N, D)
            z = F.normalize(z)[order.argsort().to(z.device)]
            clusters = KMeans(self.k, seed=seed).fit(z)
        self.memory.initialise(z, clusters.assignments_)

    def begin_epoch(self, run: Run, epoch: int) -> Tensor:
        return with_replacement(run.n_images, run.steps_per_epoch * run.batch, self.settings.seed, "order", epoch)

    def loss(self, crops: list[Tensor], indices: Tensor) -> Tensor:
        z = in_micro_batches(self._embed, crops, self.settings.micro_batch, self)  # (V B, D)
        self.embeddings = z.detach()
        labels = self.memory.assignments_of(indices).repeat(len(crops))
        weights = self.memory.loss_weights(self.settings.reweight_power)
        total = F.cross_entropy(self.head(z).float(), labels, weight=weights, reduction="sum")
        return mean_over_ranks(total, weights[labels].sum(), self.group)

    def after_step(self, run: Run, indices: Tensor) -> None:
        self.change = self.memory.update(indices, self.embeddings[: len(indices)])  # of the first crop
        if (run.step + 1) % self.settings.centroid_every == 0:
            self.memory.update_centroids()
        self.memory.split_small_clusters()

    def assign(self, run: Run) -> Tensor:
        return run.gather(self.memory.assignments) if self.is_sharded else self.memory.assignments

    def figures(self) -> dict[str, Tensor | float]:
        return {"change": self.change} | size_figures(self.memory.counts)

    def remedies(self, step: int, steps_per_epoch: int) -> list[Remedy]:
        s = self.settings
        remedies = [Remedy("a lower learning rate", {"lr": scaled(s.lr, 1 / 3)})]
        if s.head_lr == 1:
            remedies.append(Remedy("a head that keeps up with the labels", {"head_lr": 10.0}))
        return [*remedies, Remedy(f"fewer clusters (--k {max(2, self.k // 2)})")]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The head has no momentum, as its targets change under it."""
        others = [*self.backbone.parameters(), *self.neck.parameters()]
        head = {"params": list(self.head.parameters()), "momentum": 0.0, "lr_factor": self.settings.head_lr}
        return [{"params": others}, head]

    def _embed(self, images: Tensor | list[Tensor]) -> Tensor:
        z: Tensor = self.neck(self.backbone(images))
        return z
