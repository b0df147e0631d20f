"""What a method may use of the run it is part of: where the run stands, and features of the whole data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

    def extract_owned(self, network: Callable[[Tensor], Tensor], order: Tensor, owned: range) -> Tensor:
        """Like `extract` with batch statistics, but each rank keeps the rows of its own images only. Collective.

        No rank ever holds the features of all images.

        Args:
            network: Takes (B, 3, S, S) centre crops.
            order: (N,) int64, a permutation of all images; decides which of them share a batch.
            owned: Images whose features this rank keeps.

        Returns:
            (len(owned), D) float32 on the device, in order of the images.
        """
        rows: Tensor | None = None
        for positions, features in self._batches(
            lambda crops: network(crops[0]), self.eval_loader, order, True, "features"
        ):
            images = order[positions]
            all_features, all_images = self.gather(features), self.gather(images.to(features.device))
            is_owned = (all_images >= owned.start) & (all_images < owned.stop)
            if rows is None:
                rows = all_features.new_empty(len(owned), all_features.shape[1])
            rows[all_images[is_owned] - owned.start] = all_features[is_owned]
        assert rows is not None
        return rows

    def _pass(
        self,
        network: Callable[[list[Tensor]], Tensor],
        loader: Loader,
        indices: Tensor,
        batch_statistics: bool,
        what: str,
    ) -> Tensor:
        positions, parts = zip(*self._batches(network, loader, indices, batch_statistics, what), strict=True)
        rows = self.gather(torch.cat(parts))
        if self.group is None:
            return rows
        return rows[self.gather(torch.cat(positions).to(rows.device)).argsort()]

    def _batches(
        self,
        network: Callable[[list[Tensor]], Tensor],
        loader: Loader,
        indices: Tensor,
        batch_statistics: bool,
        what: str,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Run the network over `indices`. Yields this rank's positions in `indices` and features (b, D) of each batch.

        Every rank gets the same number of batches. Raises TrainingFailed after the last one if any was not finite.
        """
        # Each batch is split over all ranks. So batch statistics do not depend on the number of ranks, and every rank
        # has the same number of batches: synchronised batch norm would hang if one rank had fewer.
        size = self.plan.statistics_batch if batch_statistics else min(256, self.batch) * self.machine.n_ranks
        positions = torch.arange(len(indices)).tensor_split(math.ceil(len(indices) / size))
        own_positions = [self.own_part(batch) for batch in positions]
        batches = loader.batches(0, [indices[batch] for batch in own_positions])
        n_bad = torch.zeros((), device=self.machine.device)  # batches, counted without waiting for a GPU
        with self._evaluating(batch_statistics):
            for i, (crops, _) in enumerate(batches):
                with torch.inference_mode(), self.machine.fabric.autocast():  # crops are made in float32
                    features = network(crops).float()
                features = features.clone()  # a tensor of inference mode may not take part in training
                n_bad += ~features.isfinite().all()
                yield own_positions[i], features
                self.progress(what, (i + 1) / len(own_positions))
                self.between_batches()
        if self.machine.mean(n_bad) > 0:  # the same on every rank, so that all of them raise
            raise TrainingFailed(f"{what}: NaN or infinity after step {self.step}; lower --lr, or use --precision 32")

    @contextmanager
    def _evaluating(self, batch_statistics: bool) -> Iterator[None]:
        """Put the method into evaluation mode; its batch norms stay in training mode with `batch_statistics`."""
        training = self.method.training
        self.method.eval()
        for module in self.method.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(batch_statistics)
        try:
            yield
        finally:
            self.method.train(training)
