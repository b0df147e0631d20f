"""What a method may use of the run it is part of: where it stands, and features of the whole data set."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

from pretrain.errors import TrainingFailed
from pretrain.loader import Loader


@dataclass
class Run:
    fabric: Fabric
    method: nn.Module
    centres: Loader  # images of the training set, as the evaluation recipe crops them
    crops: Loader  # the same images, as the training recipe crops them
    n_images: int
    steps_per_epoch: int
    batch: int
    statistics_batch: int  # images whose statistics batch norm takes together: those of a step, or of its micro-batches
    step: int = 0  # the step being done, 0-based
    progress: Callable[[str, float], None] = lambda what, share: None
    between_batches: Callable[[], None] = lambda: None  # may end the pass by an exception; `interrupt.py`

    @property
    def group(self) -> Any:
        """The process group for collectives; None when this process is alone."""
        return dist.group.WORLD if self.fabric.world_size > 1 else None

    def share(self, rows: Tensor) -> Tensor:
        """This rank's part of rows that all ranks have, as views."""
        return rows.tensor_split(self.fabric.world_size)[self.fabric.global_rank]

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all ranks in order of rank; `gather(share(rows))` equals rows. Collective."""
        return rows if self.group is None else _gather_rows(rows, self.group)

    def mean(self, value: Tensor) -> Tensor:
        """Of one number a rank. Collective."""
        if self.group is None:
            return value
        value = value.clone()
        dist.all_reduce(value, group=self.group)
        return value / self.fabric.world_size

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
        batch norm works as in training, on the statistics of a step's batch, which it also learns from. Collective."""
        loader = loader or self.centres
        indices = torch.arange(len(loader)) if indices is None else indices
        return self._pass(lambda crops: network(crops[0]), loader, indices, batch_statistics, what)

    def extract_crops(self, network: Callable[[list[Tensor]], Tensor], indices: Tensor, *, what: str) -> Tensor:
        """As `extract`, from the training crops of epoch 0 (all V at once), with batch statistics. Collective."""
        return self._pass(network, self.crops, indices, True, what)

    def _pass(
        self,
        network: Callable[[list[Tensor]], Tensor],
        loader: Loader,
        indices: Tensor,
        batch_statistics: bool,
        what: str,
    ) -> Tensor:
        # Batches are of all ranks together, so that their statistics do not depend on the number of ranks, and
        # every rank has as many of them: synchronised batch norm would wait for ever for one that has fewer.
        size = self.statistics_batch if batch_statistics else min(256, self.batch) * self.fabric.world_size
        parts_of_all = torch.arange(len(indices)).tensor_split(math.ceil(len(indices) / size))
        batches = [indices[self.share(part)] for part in parts_of_all]
        training = self.method.training
        self.method.eval()
        for module in self.method.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(batch_statistics)
        parts: list[Tensor] = []
        n_bad = torch.zeros((), device=self.fabric.device)  # batches, counted without waiting for a GPU
        with torch.inference_mode():
            for i, (crops, _) in enumerate(loader.batches(0, batches)):
                with self.fabric.autocast():  # of the network alone: crops are made in float32
                    parts.append(network(crops).float())
                n_bad += ~parts[-1].isfinite().all()
                self.progress(what, (i + 1) / len(batches))
                self.between_batches()
        self.method.train(training)
        if self.mean(n_bad) > 0:  # on every rank, so that none waits for one that has ended
            raise TrainingFailed(f"{what}: NaN or infinity after step {self.step}; lower --lr, or use --precision 32")
        # cloned: a tensor of inference mode may not take part in training
        rows = self.gather(torch.cat(parts).clone())
        if self.group is None:
            return rows
        by_rank = [
            torch.cat(one) for one in zip(*(p.tensor_split(self.fabric.world_size) for p in parts_of_all), strict=True)
        ]
        return rows[torch.cat(by_rank).argsort().to(rows.device)]


def _gather_rows(rows: Tensor, group: Any) -> Tensor:
    """Ranks may hold one row more or less than others."""
    n = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(n) for _ in range(dist.get_world_size(group))]
    dist.all_gather(counts, n, group=group)
    longest = int(max(counts))
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])])
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded, group=group)
    return torch.cat([part[: int(count)] for part, count in zip(gathered, counts, strict=True)])
