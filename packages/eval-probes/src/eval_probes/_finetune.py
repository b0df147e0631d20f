"""Semi-supervised fine-tuning on a part of the labels: backbone and a new head, over a grid (ImageNet 1 % and 10 %)."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from ._accuracy import Classes, class_index, known_classes, top_hits, train_index
from ._linear_train import step_factor

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class FineTuneProtocol:
    """How a network is fine-tuned: SGD, steps by epoch, a grid of backbone rates and of multiples of it for the head.

    batch is for whoever makes the batches."""

    weight_decay: float
    epochs: int = 20
    batch: int = 256
    momentum: float = 0.9
    milestones: tuple[int, ...] = (12, 16)
    gamma: float = 0.2
    lr: tuple[float, ...] = (0.1, 0.01, 0.001)
    head_multiplier: tuple[float, ...] = (1.0, 10.0, 100.0)


# MMSelfSup 0.x; weight decay on all parameters
SEMI_1PERCENT = FineTuneProtocol(weight_decay=5e-4)
SEMI_10PERCENT = FineTuneProtocol(weight_decay=1e-4)


@dataclass(frozen=True)
class FineTuneCell:
    """One training: its settings, and accuracies in [0, 1] after the last epoch."""

    lr: float
    head_multiplier: float
    seed: int
    top1: float
    top5: float
    holdout_top1: float | None = None
    diverged: bool = False  # stopped at a loss of NaN or infinity


class FineTune:
    """Fine-tune make_model() and a linear head in every cell of the protocol's grid, for every seed.

    make_model: a new network each call, with the weights to start from, on its device, images -> (B, dim); all its
    parameters that require gradients are trained, in train mode. classes: their number or their labels. The head's
    weights are from N(0, 0.01) by seed, biases 0. precision: of the network, "32" or "bf16" autocast, whatever autocast
    surrounds the call; head and loss are in float32."""

    def __init__(
        self,
        make_model: Callable[[], nn.Module],
        dim: int,
        classes: Classes,
        protocol: FineTuneProtocol = SEMI_1PERCENT,
        *,
        seeds: Sequence[int] = (0,),
        precision: Literal["32", "bf16"] = "32",
    ) -> None:
        if precision not in ("32", "bf16"):
            raise ValueError(f"precision must be '32' or 'bf16', got {precision!r}")
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must be one or more different integers, got {seeds}")
        self.make_model, self.dim, self.protocol, self.seeds = make_model, dim, protocol, tuple(seeds)
        self.precision = precision
        self.classes = known_classes(classes, None)
        self.cells: list[FineTuneCell] = []

    def run(
        self,
        train_batches: Callable[[int, int], Batches],
        val_batches: Callable[[], Batches],
        holdout_batches: Callable[[], Batches] | None = None,
        *,
        done: Sequence[FineTuneCell] = (),
        after_cell: Callable[[FineTuneCell], None] | None = None,
    ) -> dict[str, Any]:
        """Train all cells and return the report.

        train_batches: (epoch, seed) -> batches of (images, labels), augmented and in an order of your own.
        val_batches: the images the field reports on. holdout_batches: a part of the labelled subset that train_batches
        leaves out (see `subset_indices`), to choose by. done: cells of an interrupted run, not trained again;
        after_cell: called with each new one, to save it.

        The report: "cells", one dictionary each; "best_on_val": {"lr", "head_multiplier", "top1", "top5" (means over
        seeds), "top1_sd"} of the highest top-1 on val, which is the published custom and optimistic; with
        holdout_batches "chosen": the same of the cell that is best there, the honest number."""
        known = {(cell.lr, cell.head_multiplier, cell.seed): cell for cell in done}
        self.cells = []
        for lr in self.protocol.lr:
            for multiplier in self.protocol.head_multiplier:
                for seed in self.seeds:
                    cell = known.get((lr, multiplier, seed))
                    if cell is None:
                        network, diverged = self._train(lr, multiplier, seed, train_batches)
                        top1, top5 = self._accuracy(network, val_batches())
                        held = None if holdout_batches is None else self._accuracy(network, holdout_batches())[0]
                        cell = FineTuneCell(lr, multiplier, seed, top1, top5, held, diverged)
                        if after_cell is not None:
                            after_cell(cell)
                    self.cells.append(cell)
        report: dict[str, Any] = {"cells": [asdict(cell) for cell in self.cells]}
        report["best_on_val"] = self._best("top1")
        if holdout_batches is not None:
            report["chosen"] = self._best("holdout_top1")
        return report

    def _train(
        self, lr: float, multiplier: float, seed: int, batches: Callable[[int, int], Batches]
    ) -> tuple[nn.Sequential, bool]:
        p = self.protocol
        model = self.make_model()
        head = skip_init(nn.Linear, self.dim, len(self.classes))  # its own start would read the global generator
        nn.init.normal_(head.weight, 0, 0.01, torch.Generator().manual_seed(seed))
        nn.init.zeros_(head.bias)
        device = next(model.parameters()).device
        network = nn.Sequential(model, head.to(device)).train()
        groups = [
            {"params": [w for w in model.parameters() if w.requires_grad], "factor": 1.0},
            {"params": list(head.parameters()), "factor": multiplier},
        ]
        optimizer = torch.optim.SGD(groups, lr, p.momentum, weight_decay=p.weight_decay)
        for epoch in range(p.epochs):
            for group in optimizer.param_groups:
                group["lr"] = lr * group["factor"] * step_factor(epoch, p.milestones, p.gamma)
            loss = None
            for images, y in batches(epoch, seed):
                true = train_index(y, self.classes).to(device)
                with torch.autocast(device.type, enabled=False):  # around the backward pass as well
                    loss = F.cross_entropy(self._logits(network, images.to(device, non_blocking=True)), true)
                    optimizer.zero_grad()
                    loss.backward()
                optimizer.step()
            if loss is None:
                raise ValueError(f"train_batches({epoch}, {seed}) is empty: nothing to train on")
            if not loss.isfinite():  # looked at once an epoch: each look waits for the device
                return network, True
        return network, False

    def _logits(self, network: nn.Sequential, images: Tensor) -> Tensor:
        backbone, head = network
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            x = backbone(images)
        with torch.autocast(images.device.type, enabled=False):
            logits: Tensor = head(x.float())
        return logits

    @torch.no_grad()
    def _accuracy(self, network: nn.Sequential, batches: Batches) -> tuple[float, float]:
        network.eval()
        device = next(network.parameters()).device
        hits, n = torch.zeros(2, dtype=torch.int64, device=device), 0
        for images, y in batches:
            logits = self._logits(network, images.to(device, non_blocking=True))
            hits += top_hits(logits, class_index(y, self.classes).to(device))
            n += len(y)
        if n == 0:
            raise ValueError("the batches to score on are empty")
        return int(hits[0]) / n, int(hits[1]) / n

    def _best(self, key: str) -> dict[str, float]:
        """Means over seeds of the grid cell whose mean of `key` is highest; the first one where several are."""
        grid: dict[tuple[float, float], list[FineTuneCell]] = {}
        for cell in self.cells:
            grid.setdefault((cell.lr, cell.head_multiplier), []).append(cell)
        (lr, multiplier), cells = max(grid.items(), key=lambda item: statistics.fmean(getattr(c, key) for c in item[1]))
        top1 = [cell.top1 for cell in cells]
        return {
            "lr": lr,
            "head_multiplier": multiplier,
            "top1": statistics.fmean(top1),
            "top5": statistics.fmean(cell.top5 for cell in cells),
            "top1_sd": statistics.stdev(top1) if len(top1) > 1 else 0.0,
        }
