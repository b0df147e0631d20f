"""What a method is to the loop: an `nn.Module` with four moments, and what it says about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from sobel_resnet import ResNet
from torch import Tensor, nn

from pretrain.config import Settings
from pretrain.errors import BadInput
from pretrain.run import Run


class Method(nn.Module, ABC):
    """One file of `methods/` each. All state is parameters and buffers, so that a checkpoint is its `state_dict`."""

    backbone: ResNet
    k: int  # clusters or prototypes; of a method with several clusterings, of each
    embeddings: Tensor  # (rows, D) of the last loss, without gradient: watched for collapse
    remedies: tuple[str, ...]  # against collapse, the most likely first
    remark: str | None = None  # said before training starts

    # ---- the four moments ----

    def start(self, run: Run) -> None:
        """Before the first step; not after a resume."""

    def begin_epoch(self, run: Run, epoch: int) -> Tensor | None:
        """Before the first step of an epoch. May return the order of its images; None = a keyed permutation."""
        return None

    @abstractmethod
    def loss(self, crops: list[Tensor], indices: Tensor) -> Tensor:
        """crops: V of (B, 3, S, S), in the order of the recipe. indices: (B,) of the data set. Returns a scalar."""

    def after_step(self, run: Run, indices: Tensor) -> None:
        """After the optimiser's step."""

    # ---- what it says ----

    def figures(self) -> dict[str, Tensor | float]:
        """Numbers for a line of metrics.jsonl; 0-dim tensors stay on the device, and NaN means not known yet."""
        return {}

    @abstractmethod
    def assign(self, run: Run) -> Tensor:
        """Cluster (N,) int64 of each image as the method stands. Collective."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """For the optimiser; `lr_factor` and `frozen_steps` (first steps without an update) where not 1 and 0."""
        return [{"params": list(self.parameters())}]


def sizes_of(assignments: Tensor, k: int) -> Tensor:
    """Members of each cluster, (K,) int64, of assignments (N,); negative ones are left out. Never waits for a GPU."""
    sizes = torch.zeros(k, dtype=torch.int64, device=assignments.device)
    return sizes.scatter_add_(0, assignments.clamp(min=0), (assignments >= 0).long())


def size_figures(sizes: Tensor) -> dict[str, Tensor | float]:
    """What a line of metrics.jsonl says of cluster sizes (K,); effective clusters are exp(entropy of the sizes)."""
    share = sizes.double() / sizes.sum()
    effective = torch.special.entr(share).sum().exp()
    return {"smallest": sizes.amin(), "largest": sizes.amax(), "effective_clusters": effective}


def n_clusters(settings: Settings, n_images: int, at_most: int) -> int:
    """`--k`, checked, or else one cluster for 100 images: at least 20 where five images each can fill them."""
    default = max(2, min(at_most, max(n_images // 100, min(n_images // 5, 20))))
    if settings.k is None:
        return default
    if settings.k > n_images:
        raise BadInput(
            f"--k {settings.k} is more than the {n_images} images; "
            f"leave --k out or take at most {default}, about one cluster for 100 images"
        )
    return settings.k
