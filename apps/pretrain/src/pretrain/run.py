"""What a method may use of the run it is part of: where it stands, and features of the whole data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

from pretrain.data import Loader


@dataclass
class Run:
    fabric: Fabric
    method: nn.Module
    loader: Loader  # images of the training set, as the evaluation recipe crops them
    n_images: int
    steps_per_epoch: int
    batch: int
    step: int = 0  # the step being done, 0-based
    progress: Callable[[str, float], None] = lambda what, share: None

    @property
    def group(self) -> Any:
        """The process group for collectives; None when this process is alone."""
        return dist.group.WORLD if self.fabric.world_size > 1 else None

    def extract(
        self,
        network: Callable[[Tensor], Tensor],
        *,
        indices: Tensor | None = None,
        loader: Loader | None = None,
        batch_statistics: bool = False,
        what: str = "features",
    ) -> Tensor:
        """Features of all images (or of `indices`) in that order: (N, D) float32 on the device, the same on every rank.

        network: takes (B, 3, S, S) centre crops; run in evaluation mode, without gradients. With `batch_statistics`,
        batch norm works as in training, on the statistics of the batch, which it also learns from. Collective."""
        loader = loader or self.loader
        indices = torch.arange(len(loader)) if indices is None else indices
        mine = indices.tensor_split(self.fabric.world_size)[self.fabric.global_rank]
        batches = mine.split(max(1, min(256, self.batch)))
        training = self.method.training
        self.method.eval()
        for module in self.method.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(batch_statistics)
        parts: list[Tensor] = []
        with torch.inference_mode(), self.fabric.autocast():
            for i, (crops, _) in enumerate(loader.batches(0, list(batches))):
                parts.append(network(self.fabric.to_device(crops[0])).float())
                self.progress(what, (i + 1) / len(batches))
        self.method.train(training)
        features = torch.cat(parts).clone()  # cloned: a tensor of inference mode may not take part in training
        return features if self.group is None else _gather_rows(features, self.group)


def _gather_rows(rows: Tensor, group: Any) -> Tensor:
    """Rows of all ranks in order of rank; ranks may hold one row more or less than others."""
    n = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(n) for _ in range(dist.get_world_size(group))]
    dist.all_gather(counts, n, group=group)
    longest = int(max(counts))
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), rows.shape[1])])
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded, group=group)
    return torch.cat([part[: int(count)] for part, count in zip(gathered, counts, strict=True)])
