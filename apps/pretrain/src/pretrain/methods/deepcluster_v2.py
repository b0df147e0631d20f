"""DeepCluster-v2 (Caron et al. 2020, arXiv:2006.09882, appendix D): the clusters of the previous epoch as targets.

    start        one pass without learning: bank <- embeddings z of the crops that give clusters
    every epoch  spherical k-means of the bank, once a head -> labels, centroids; images not in the bank get none
    every step   loss = mean over heads h, crops v:  cross-entropy(z_v . centroids_h / temperature, labels_h)
                 bank of the batch <- z of the crops that give clusters

The centroids are the prototypes: k-means sets them, and they have no gradient.
"""

# B images of this process, V crops of each, N of the data set, D dimension of z, K clusters, H heads

from __future__ import annotations

import torch
import torch.nn.functional as F
from cluster_memory import EpochBank, NotFinite, cluster_stats
from sobel_resnet import Projector, ResNet
from steady_runs import BadInput, TrainingFailed
from steady_runs.keys import key, permutation
from torch import Tensor
from torch.distributed import ProcessGroup

from pretrain.method import Method, Remedy, n_clusters, scaled, size_figures, sizes_of
from pretrain.micro_batches import in_micro_batches, mean_over_ranks
from pretrain.run import Run
from pretrain.settings import DeepClusterV2Settings


class DeepClusterV2(Method):
    renews_targets = True
    settings: DeepClusterV2Settings
    labels: Tensor
    centroids: Tensor
    nmi: Tensor

    def __init__(
        self, backbone: ResNet, settings: DeepClusterV2Settings, n_images: int, group: ProcessGroup | None = None
    ) -> None:
        super().__init__()
        self.settings, self.group = settings, group
        self.k = n_clusters(settings, n_images, at_most=3000)
        batch = min(settings.batch, n_images)
        if settings.drop_last and (seen := n_images - n_images % batch) < self.k:
            raise BadInput(
                f"--k {self.k} clusters of the {seen} images that --drop-last leaves of {n_images}: "
                f"lower --k or --batch, or leave --drop-last out"
            )
        self.backbone = backbone
        self.projector = Projector(
            backbone.num_features, settings.hidden, settings.dim, seed=key(settings.seed, "projector")
        )
        self.bank = EpochBank(
            n_images,
            settings.dim,
            settings.crops_for_codes,
            bank_dtype=getattr(torch, settings.memory_dtype),
            group=group,
        )
        self.register_buffer("labels", torch.full((settings.n_heads, n_images), -100))  # (H, N) int64
        self.register_buffer("centroids", torch.zeros(settings.n_heads, self.k, settings.dim))  # (H, K, D)
        self.register_buffer("nmi", torch.full((), torch.nan))  # of the last two clusterings, first head

    def start(self, run: Run) -> None:
        n_codes = self.settings.crops_for_codes

        def embed(crops: list[Tensor]) -> Tensor:  # a crop at a time, so that each has its own batch statistics
            return torch.cat([self.projector(self.backbone(crop)) for crop in crops[:n_codes]], dim=1)

        order = permutation(run.n_images, self.settings.seed, "start")[: run.steps_per_epoch * run.batch]
        z = run.extract_crops(embed, order, what="first embeddings")  # (n, V D)
        z = run.own_part(z).unflatten(1, (n_codes, -1)).transpose(0, 1)
        self.bank.write(run.own_part(order), z)

    def begin_epoch(self, run: Run, epoch: int) -> None:
        s = self.settings
        warm_start = self.centroids if s.warm_start and epoch else None
        try:
            labels, centroids = self.bank.cluster(
                self.k, s.n_heads, s.kmeans_iters, seed=s.seed, epoch=epoch, warm_start=warm_start
            )
        except NotFinite as error:
            raise TrainingFailed(f"clusters of epoch {epoch + 1}: {error}; lower --lr ({s.lr:g} now)") from None
        if epoch:
            self.nmi.fill_(cluster_stats(labels[0], self.k, previous=self.labels[0]).nmi or 0.0)
        self.labels.copy_(labels)
        self.centroids.copy_(centroids)

    def loss(self, crops: list[Tensor], indices: Tensor) -> Tensor:
        z = in_micro_batches(lambda part: self.projector(self.backbone(part)), crops, self.settings.micro_batch, self)
        self.embeddings = z.detach()  # (V B, D), unit rows, float32
        with torch.autocast(z.device.type, enabled=False):
            losses = [
                self.cross_entropy(z @ centroids.T / self.settings.temperature, labels[indices].repeat(len(crops)))
                for centroids, labels in zip(self.centroids, self.labels, strict=True)
            ]
        return torch.stack(losses).mean()

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over the rows that have a label; 0 if none has."""
        total = F.cross_entropy(logits, labels, reduction="sum")
        return mean_over_ranks(total, (labels >= 0).sum().float(), self.group)

    def after_step(self, run: Run, indices: Tensor) -> None:
        n_codes = self.settings.crops_for_codes
        self.bank.write(indices, self.embeddings.unflatten(0, (-1, len(indices)))[:n_codes])

    def assign(self, run: Run) -> Tensor:
        z = run.extract(lambda x: self.projector(self.backbone(x)), what="clusters of all images")
        return (z @ self.centroids[0].T).argmax(1)

    def remedies(self, step: int, steps_per_epoch: int) -> list[Remedy]:
        s = self.settings
        remedies = [Remedy("a lower learning rate", {"lr": scaled(s.lr, 1 / 3)})]
        warmup = step // steps_per_epoch + 2  # to the end of the next epoch
        if s.warmup_epochs < warmup < s.epochs:
            remedies.append(Remedy("a longer warm-up", {"warmup_epochs": warmup}))
        return [
            *remedies,
            Remedy(f"fewer clusters (--k {max(2, self.k // 2)})"),
            Remedy("larger first crops (--crops), so that an image's crops agree"),
        ]

    def figures(self) -> dict[str, Tensor | float]:
        return size_figures(sizes_of(self.labels[0], self.k)) | {"nmi": self.nmi}
