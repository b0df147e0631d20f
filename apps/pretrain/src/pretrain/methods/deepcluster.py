"""DeepCluster (Caron et al. 2018, arXiv:1807.05520): cluster all images, then train on the clusters as classes.

    every epoch  features of all images -> PCA, whitening, unit rows -> k-means -> labels
                 the head is re-initialised; images are sampled uniformly over the clusters
    every step   loss = cross-entropy(head(backbone(crop)), labels of the batch)

Labels are a buffer that the loss indexes by image, so no worker process holds a copy that could become outdated.
"""

# B images of this process, V crops of each, N of the data set, D dimension of the features, K clusters

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from cluster_memory import KMeans, PCAWhitening, balanced_indices, cluster_stats
from sobel_resnet import ResNet
from steady_runs import TrainingFailed
from steady_runs.keys import generator, key
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from pretrain.method import Method, Remedy, n_clusters, scaled, size_figures
from pretrain.micro_batches import in_micro_batches, mean_over_ranks
from pretrain.run import Run
from pretrain.settings import DeepClusterSettings


class DeepCluster(Method):
    renews_targets = True
    settings: DeepClusterSettings
    labels: Tensor
    sizes: Tensor
    nmi: Tensor

    def __init__(
        self, backbone: ResNet, settings: DeepClusterSettings, n_images: int, group: ProcessGroup | None = None
    ) -> None:
        super().__init__()
        self.settings, self.group = settings, group
        self.k = n_clusters(settings, n_images, at_most=10_000)
        self.backbone = backbone
        self.head = nn.Linear(backbone.num_features, self.k)
        self.register_buffer("labels", torch.full((n_images,), -100))  # (N,) int64
        self.register_buffer("sizes", torch.zeros(self.k, dtype=torch.int64))
        self.register_buffer("nmi", torch.full((), torch.nan))  # of the last two clusterings

    def begin_epoch(self, run: Run, epoch: int) -> Tensor | None:
        labels = self.cluster(run, epoch)
        if epoch:
            self.nmi.fill_(cluster_stats(labels, self.k, previous=self.labels).nmi or 0.0)
        self.adopt(labels)
        self.renew_head(epoch)
        if not self.settings.balanced:
            return None
        n = run.steps_per_epoch * run.batch
        return balanced_indices(labels.cpu(), n, key(self.settings.seed, "order", epoch))

    def cluster(self, run: Run, epoch: int) -> Tensor:
        """Cluster the current features. Returns labels (N,) int64."""
        x = run.extract(self.backbone, what=f"features for the clusters of epoch {epoch + 1}")  # (N, D), finite
        if self.settings.pca_dim:
            try:
                whitening = PCAWhitening(self.settings.pca_dim, at_most=True).fit(x)
            except ValueError as error:  # the features are finite, so all of them are equal
                raise TrainingFailed(
                    f"clusters of epoch {epoch + 1}: {error}; look at the images, or lower --lr"
                ) from None
            x = whitening.transform(x)
        else:
            x = F.normalize(x)
        seed = key(self.settings.seed, "clusters", epoch)
        clusters = KMeans(self.k, n_iters=self.settings.kmeans_iters, seed=seed, group=run.group).fit(run.own_part(x))
        return run.gather(clusters.assignments_)

    def adopt(self, labels: Tensor) -> None:
        """Set the targets (N,) until the next clustering; the sizes are counted here, once."""
        self.labels.copy_(labels)
        self.sizes.copy_(torch.bincount(labels, minlength=self.k))

    def renew_head(self, epoch: int) -> None:
        """Re-initialise the head: new clusters have new numbers, so its old weights are worthless."""
        # drawn on the CPU, so that the head is the same on every device
        weight = torch.empty(self.head.weight.shape, dtype=self.head.weight.dtype)
        nn.init.normal_(weight, std=0.01, generator=generator(self.settings.seed, "head", epoch))
        with torch.no_grad():
            self.head.weight.copy_(weight)
        nn.init.zeros_(self.head.bias)

    def loss(self, crops: list[Tensor], indices: Tensor) -> Tensor:
        features = in_micro_batches(self.backbone, crops, self.settings.micro_batch, self)  # (V B, D)
        self.embeddings = features.detach()
        labels = self.labels[indices].repeat(len(crops))
        weights = self.loss_weights()
        total = F.cross_entropy(self.head(features).float(), labels, weight=weights, reduction="sum")
        return mean_over_ranks(total, weights[labels].sum(), self.group)

    def loss_weights(self) -> Tensor:
        """size^(-reweight_power), (K,). The weighted mean of the loss does not depend on their scale."""
        return self.sizes.clamp(min=1).float().pow(-self.settings.reweight_power)

    def assign(self, run: Run) -> Tensor:
        return self.labels

    def figures(self) -> dict[str, Tensor | float]:
        return size_figures(self.sizes) | {"nmi": self.nmi}

    def remedies(self, step: int, steps_per_epoch: int) -> list[Remedy]:
        s = self.settings
        remedies = [Remedy("a lower learning rate", {"lr": scaled(s.lr, 1 / 3)})]
        if s.head_lr == 1:
            remedies.append(Remedy("a head that keeps up with the labels", {"head_lr": 10.0}))
        return [
            *remedies,
            Remedy(f"fewer clusters (--k {max(2, self.k // 2)})"),
            Remedy("--sobel, if clusters are of colours"),
        ]

    def parameter_groups(self) -> list[dict[str, Any]]:
        head = {"params": list(self.head.parameters()), "momentum": 0.0, "lr_factor": self.settings.head_lr}
        return [{"params": list(self.backbone.parameters())}, head]
