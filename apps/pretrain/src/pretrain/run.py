"""What a method may use of the run it is part of: where the run stands, and features of the whole data set."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from steady_runs import TrainingFailed
from torch import Tensor, nn

from pretrain.launch import Machine
from pretrain.loader import Loader
from pretrain.plan import Plan


@dataclass
class Run:
    """Passed to the methods' hooks.

    Attributes:
        machine: Device and ranks.
        method: The method itself, whose networks `extract` runs.
        eval_loader: Training images as the evaluation recipe crops them.
        train_loader: The same images as the training recipe crops them.
        plan: Numbers of images and steps.
        step: Steps done so far, which is also the 0-based number of the current step.
        progress: Told the name of a pass over the images, and the fraction that is done.
        between_batches: Called between the batches of a pass; may end it by an exception (`saver.py`).
    """

    machine: Machine
    method: nn.Module
    eval_loader: Loader
    train_loader: Loader
    plan: Plan
    step: int = 0
    progress: Callable[[str, float], None] = lambda what, fraction: None
    between_batches: Callable[[], None] = lambda: None

    @property
    def n_images(self) -> int:
        """Images of the data set."""
        return self.plan.n_images

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps per epoch."""
        return self.plan.steps_per_epoch

    @property
    def batch(self) -> int:
        """Images per step, over all ranks."""
        return self.plan.batch

    @property
    def group(self) -> Any:
        """The process group for collectives; None when this process is alone."""
        return self.machine.group

    def own_part(self, rows: Tensor) -> Tensor:
        """This rank's part of rows that all ranks have, as a view."""
        return self.machine.own_part(rows)

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all ranks in order of rank: `gather(own_part(rows))` equals rows. Collective."""
        return self.machine.gather(rows)

    def extract(
        self,
        network: Callable[[Tensor], Tensor],
        *,
        indices: Tensor | None = None,
        loader: Loader | None = None,
        batch_statistics: bool = False,
        what: str = "features",
    ) -> Tensor:
        """Compute features of all images, or of `indices`, in that order. Collective.

        Args:
            network: Takes (B, 3, S, S) centre crops; run in evaluation mode, without gradients.
            indices: (n,) int64 on the CPU.
            loader: Of other images than the training set's.
            batch_statistics: Let batch norm work as in training: on the statistics of a step's batch, which also
                update its running statistics.
            what: Name of the pass, for progress and errors.

        Returns:
            (n, D) float32 on the device, the same on every rank.

        Raises:
            TrainingFailed: If a feature is NaN or infinite.
        """
        loader = loader or self.eval_loader
        indices = torch.arange(len(loader)) if indices is None else indices
        return self._pass(lambda crops: network(crops[0]), loader, indices, batch_statistics, what)

    def extract_crops(self, network: Callable[[list[Tensor]], Tensor], indices: Tensor, *, what: str) -> Tensor:
        """Like `extract`, from the training crops of epoch 0 (all V at once), with batch statistics. Collective."""
        return self._pass(network, self.train_loader, indices, True, what)

    def _pass(
        self,
        network: Callable[[list[Tensor]], Tensor],
        loader: Loader,
        indices: Tensor,
        batch_statistics: bool,
        what: str,
    ) -> Tensor:
        n_ranks = self.machine.n_ranks
        # Each batch is split over all ranks. So batch statistics do not depend on the number of ranks, and every rank
        # has the same number of batches: synchronised batch norm would hang if one rank had fewer.
        size = self.plan.statistics_batch if batch_statistics else min(256, self.batch) * n_ranks
        batches_of_all = torch.arange(len(indices)).tensor_split(math.ceil(len(indices) / size))
        batches = [indices[self.own_part(positions)] for positions in batches_of_all]
        training = self.method.training
        self.method.eval()
        for module in self.method.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(batch_statistics)
        parts: list[Tensor] = []
        n_bad = torch.zeros((), device=self.machine.device)  # batches, counted without waiting for a GPU
        with torch.inference_mode():
            for i, (crops, _) in enumerate(loader.batches(0, batches)):
                with self.machine.fabric.autocast():  # of the network alone: crops are made in float32
                    parts.append(network(crops).float())
                n_bad += ~parts[-1].isfinite().all()
                self.progress(what, (i + 1) / len(batches))
                self.between_batches()
        self.method.train(training)
        if self.machine.mean(n_bad) > 0:  # the same on every rank, so that all of them raise
            raise TrainingFailed(f"{what}: NaN or infinity after step {self.step}; lower --lr, or use --precision 32")
        # cloned: a tensor of inference mode may not take part in training
        rows = self.gather(torch.cat(parts).clone())
        if self.group is None:
            return rows
        by_rank = [torch.cat(one) for one in zip(*(p.tensor_split(n_ranks) for p in batches_of_all), strict=True)]
        return rows[torch.cat(by_rank).argsort().to(rows.device)]
