"""Semi-supervised fine-tuning on a part of the labels, over a grid of learning rates (ImageNet 1 % and 10 %)."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from ._accuracy import Classes, class_index, known_classes, top_hits, train_index
from ._arrays import Array, as_tensor
from ._linear_train import step_factor
from ._probe import Probe, Scores, setting

Batches = Iterable[tuple[Array, Array]]


@dataclass(frozen=True)
class FineTuneProtocol:
    """Hyperparameters of fine-tuning by SGD with a step schedule.

    Args:
        weight_decay: Weight decay of all parameters.
        epochs: Number of epochs.
        batch: Batch size, for the code that makes the batches.
        momentum: Momentum of SGD.
        milestones: Epochs from which the learning rates are multiplied by gamma.
        gamma: Factor at a milestone.
        lr: Learning rates of the backbone, one axis of the grid.
        head_multiplier: Factors from the backbone's learning rate to the head's, the other axis.
    """

    weight_decay: float
    epochs: int = 20
    batch: int = 256
    momentum: float = 0.9
    milestones: tuple[int, ...] = (12, 16)
    gamma: float = 0.2
    lr: tuple[float, ...] = (0.1, 0.01, 0.001)
    head_multiplier: tuple[float, ...] = (1.0, 10.0, 100.0)


# From MMSelfSup 0.x.
SEMI_1PERCENT = FineTuneProtocol(weight_decay=5e-4)
SEMI_10PERCENT = FineTuneProtocol(weight_decay=1e-4)


@dataclass(frozen=True)
class FineTuneCell:
    """Settings and results of one training.

    Args:
        lr: Learning rate of the backbone.
        head_multiplier: Factor from `lr` to the head's learning rate.
        seed: Seed of the head.
        top1: Top-1 accuracy in [0, 1] on `val_batches` after the last epoch.
        top5: Top-5 accuracy, likewise.
        holdout_top1: Top-1 accuracy on `holdout_batches`; None without them.
        diverged: Whether training stopped at a loss of NaN or infinity.
    """

    lr: float
    head_multiplier: float
    seed: int
    top1: float
    top5: float
    holdout_top1: float | None = None
    diverged: bool = False


class FineTune(Probe):
    """Fine-tune a network and a new linear head in every cell of the protocol's grid, for every seed.

    The head starts from weights N(0, 0.01) and biases 0; the seed is that of the head. All parameters of the network
    that require gradients are trained, in train mode. Head and loss are computed in float32.

    FineTune follows the other probes as far as it can: `fit` returns self, and results are fitted attributes. There is
    no `predict`, `score` or `evaluate`: the fine-tuned networks, one per cell and seed, are not kept, so every figure
    is measured during `fit`.

    Args:
        make_model: Called for each training; returns a network with the weights to start from, on its device, that
            maps images to features (B, dim).
        dim: Dimension of these features.
        classes: Number of classes (labels 0 ... C - 1), or their labels.
        protocol: `SEMI_1PERCENT`, `SEMI_10PERCENT`, or another `FineTuneProtocol`.
        seeds: Seeds of the trainings of each cell.
        precision: "32", or "bf16" for autocast of the network. An autocast around the call has no effect.

    Attributes:
        classes_: Sorted labels (C,) int64.
        cells_: One `FineTuneCell` per cell and seed.
        results_: {"lr=0.1, head_multiplier=10": {"top1", "top5", "top1_sd"}, ...}, means over the seeds of the
            accuracies on `val_batches`, fractions in [0, 1], and the standard deviation of top-1 (0 for one seed); with
            `holdout_batches` also "holdout_top1".
        best_on_val_: {"lr", "head_multiplier", "top1", "top5", "top1_sd"} of the cell with the highest top-1 on
            `val_batches`. Published tables report this figure; it is optimistic.
        chosen_: The same of the cell with the highest top-1 on `holdout_batches`, the honest figure; None without them.

    Example:
        ```python
        grid = FineTune(make_resnet, dim=2048, classes=1000, protocol=SEMI_10PERCENT)
        grid.fit(train_batches, val_batches, holdout_batches)
        grid.best_on_val_["top1"], grid.chosen_["top1"]
        ```
    """

    def __init__(
        self,
        make_model: Callable[[], nn.Module],
        *,
        dim: int,
        classes: Classes,
        protocol: FineTuneProtocol = SEMI_1PERCENT,
        seeds: Sequence[int] = (0,),
        precision: Literal["32", "bf16"] = "32",
    ) -> None:
        self.make_model = make_model
        self.dim = dim
        self.classes = classes
        self.protocol = protocol
        self.seeds = seeds
        self.precision = precision

    def fit(
        self,
        train_batches: Callable[[int, int], Batches],
        val_batches: Callable[[], Batches],
        holdout_batches: Callable[[], Batches] | None = None,
        *,
        done: Sequence[FineTuneCell] = (),
        after_cell: Callable[[FineTuneCell], None] | None = None,
    ) -> Self:
        """Train and evaluate all cells of the grid.

        Args:
            train_batches: Function of (epoch, seed) that yields augmented images (B, 3, S, S) and labels (B,). It sets
                order and batch size; use `protocol.batch`.
            val_batches: Yields the images and labels to report on.
            holdout_batches: Yields labelled images that `train_batches` leaves out (see `subset_indices`), to choose a
                cell by.
            done: Cells of an interrupted run, which are not trained again.
            after_cell: Called with each new cell, to save it.

        Returns:
            The object itself.

        Raises:
            ValueError: If an argument is invalid, a label is unknown, or there are no batches.
        """
        if self.precision not in ("32", "bf16"):
            raise ValueError(f"precision must be '32' or 'bf16', got {self.precision!r}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be one or more different integers, got {self.seeds}")
        self.classes_ = known_classes(self.classes, None)
        self.cells_: list[FineTuneCell] = []
        if holdout_batches is not None and any(cell.holdout_top1 is None for cell in done):
            raise ValueError("done has cells without holdout_top1: leave them out, or leave holdout_batches out")
        known = {(cell.lr, cell.head_multiplier, cell.seed): cell for cell in done}
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
                    self.cells_.append(cell)
        grid: dict[tuple[float, float], list[FineTuneCell]] = {}
        for cell in self.cells_:
            grid.setdefault((cell.lr, cell.head_multiplier), []).append(cell)
        results = {at: _over_seeds(cells) for at, cells in grid.items()}
        self.results_: Scores = {
            f"{setting('lr', lr)}, {setting('head_multiplier', multiplier)}": row
            for (lr, multiplier), row in results.items()
        }
        self.best_on_val_ = _best(results, "top1")
        self.chosen_ = None if holdout_batches is None else _best(results, "holdout_top1")
        return self

    def _train(
        self, lr: float, multiplier: float, seed: int, batches: Callable[[int, int], Batches]
    ) -> tuple[nn.Sequential, bool]:
        p = self.protocol
        model = self.make_model()
        head = skip_init(
            nn.Linear, self.dim, len(self.classes_)
        )  # the usual initialisation would read the global generator
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
            for pixels, labels in batches(epoch, seed):
                images, y = as_tensor(pixels), as_tensor(labels)
                true = train_index(y, self.classes_).to(device)
                with torch.autocast(device.type, enabled=False):  # the backward pass too
                    loss = F.cross_entropy(self._logits(network, images.to(device, non_blocking=True)), true)
                    optimizer.zero_grad()
                    loss.backward()
                optimizer.step()
            if loss is None:
                raise ValueError(f"train_batches({epoch}, {seed}) is empty: nothing to train on")
            if not loss.isfinite():  # checked once per epoch: each check waits for the device
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
        for pixels, labels in batches:
            images, y = as_tensor(pixels), as_tensor(labels)
            logits = self._logits(network, images.to(device, non_blocking=True))
            hits += top_hits(logits, class_index(y, self.classes_).to(device))
            n += len(y)
        if n == 0:
            raise ValueError("the batches to evaluate on are empty")
        return int(hits[0]) / n, int(hits[1]) / n


def _over_seeds(cells: list[FineTuneCell]) -> dict[str, float]:
    """Average the accuracies of one cell of the grid over its seeds."""
    top1 = [cell.top1 for cell in cells]
    held = [cell.holdout_top1 for cell in cells if cell.holdout_top1 is not None]
    found = {
        "top1": statistics.fmean(top1),
        "top5": statistics.fmean(cell.top5 for cell in cells),
        "top1_sd": statistics.stdev(top1) if len(top1) > 1 else 0.0,
    }
    return found | ({"holdout_top1": statistics.fmean(held)} if held else {})


def _best(results: dict[tuple[float, float], dict[str, float]], metric: str) -> dict[str, float]:
    """Return the cell with the highest value of the metric, the first one on a tie."""
    (lr, multiplier), row = max(results.items(), key=lambda item: item[1][metric])
    return {"lr": lr, "head_multiplier": multiplier, **{name: row[name] for name in ("top1", "top5", "top1_sd")}}
