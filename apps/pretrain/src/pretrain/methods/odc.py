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

import torch.nn.functional as F
from cluster_memory import KMeans, OnlineClusters, cluster_stats
from sobel_resnet import OdcNeck, ResNet
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from pretrain.config import OdcSettings
from pretrain.errors import BadInput
from pretrain.keys import generator, key, permutation, with_replacement
from pretrain.run import Run


class Odc(nn.Module):
    def __init__(
        self, backbone: ResNet, settings: OdcSettings, n_images: int, group: ProcessGroup | None = None
    ) -> None:
        super().__init__()
        self.settings = settings
        self.k = settings.k or default_k(n_images)
        if self.k > n_images:
            raise BadInput(
                f"--k {self.k} is more than the {n_images} images; "
                f"leave --k out or take at most {default_k(n_images)}, about one cluster for 100 images"
            )
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

    def start(self, run: Run) -> None:
        # Batch statistics, as in the steps that follow: by the untrained running ones z would be another feature, and
        # the first labels would mean nothing to it. Hence also no order that a sorted folder could put in.
        order = permutation(run.n_images, self.settings.seed, "start")
        z = run.extract(lambda x: self.neck(self.backbone(x)), indices=order, batch_statistics=True)  # (N, D)
        z = F.normalize(z)[order.argsort().to(z.device)]
        clusters = KMeans(self.k, seed=key(self.settings.seed, "start")).fit(z)
        self.memory.initialise(z, clusters.assignments)

    def begin_epoch(self, run: Run, epoch: int) -> Tensor:
        return with_replacement(run.n_images, run.steps_per_epoch * run.batch, self.settings.seed, "order", epoch)

    def loss(self, crops: list[Tensor], indices: Tensor) -> Tensor:
        z = self.neck(self.backbone(crops))  # (B, D)
        self.embeddings = z.detach()
        return F.cross_entropy(
            self.head(z).float(),
            self.memory.assignments[indices],
            weight=self.memory.loss_weights(self.settings.reweight_power),
        )

    def after_step(self, run: Run, indices: Tensor) -> None:
        self.change = self.memory.update(indices, self.embeddings)
        if (run.step + 1) % self.settings.centroid_every == 0:
            self.memory.update_centroids()
        self.memory.split_small_clusters()

    @property
    def assignments(self) -> Tensor:
        return self.memory.assignments

    def figures(self) -> dict[str, float]:
        stats = cluster_stats(self.memory.assignments, self.k)
        return {
            "change": float(self.change),
            "smallest": stats.smallest,
            "largest": stats.largest,
            "effective_clusters": stats.effective_clusters,
        }


def default_k(n_images: int) -> int:
    """One cluster for 100 images, at most ImageNet's 10,000, at least 20 where five images each can fill them."""
    return max(2, min(10_000, max(n_images // 100, min(n_images // 5, 20))))
