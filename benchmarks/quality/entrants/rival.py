"""What all rivals share: a loop against the clock. A rival's file says what its project does within it.

The learning rate follows the clock: its cosine ends with the budget, whatever the machine's speed. Batches come from
torch's DataLoader with one process, which shares the core of the entrant.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sobel_resnet import ResNet, resnet18, save_backbone
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.quality.images import read
from benchmarks.quality.job import N_SNAPSHOTS, Job, Outcome

LOSS_EVERY = 10  # steps between points of the curve


class PilImages(Dataset[Any]):
    """Images as PIL, as torchvision's CIFAR10 gives them: (transformed image, number)."""

    def __init__(self, pixels: np.ndarray, transform: Any = None) -> None:
        self.pixels, self.transform = pixels, transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(self.pixels[index])
        return (image if self.transform is None else self.transform(image)), index


class Rival(ABC):
    """One run of a rival. A subclass sets `network` and `optimizer`, and defines `transform` and `loss`.

    Args:
        backbone: The network that will be scored.
        settings: Of the table.
        n_images: Training images.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(self, backbone: ResNet, settings: dict[str, Any], n_images: int) -> None:
        self.backbone, self.settings, self.n_images = backbone, settings, n_images
        self.lr = settings["lr"] * settings["batch"] / settings["lr_batch"]
        self.progress = 0.0  # fraction of the budget
        self.notes: dict[str, Any] = {}

    @abstractmethod
    def transform(self) -> Any:
        """What makes a list of crops of an image."""

    def dataset(self, pixels: np.ndarray) -> Dataset[Any]:
        """Gives (crops, number of the image) first, whatever follows."""
        return PilImages(pixels, self.transform())

    def begin_epoch(self, epoch: int) -> None:  # noqa: B027 - may be left as it is
        """Before the first batch of an epoch."""

    @abstractmethod
    def loss(self, crops: list[Tensor], indices: Tensor) -> Tensor | None:
        """The loss of a batch, crops (B, 3, S, S); None for a pass that only looks."""

    def after_backward(self) -> None:  # noqa: B027 - may be left as it is
        """Between the gradients and the step."""

    def lr_factor(self) -> float:
        """Of the learning rate: linear warm-up, then a cosine that ends with the budget."""
        warmup, final = self.settings["warmup"], self.settings.get("final_lr", 0.0)
        if self.progress < warmup:
            return float(self.progress / warmup)
        t = (self.progress - warmup) / (1 - warmup)
        cosine: float = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(t, 1.0)))
        return cosine

    def step(self, crops: list[Tensor], indices: Tensor) -> Tensor | None:
        for group in self.optimizer.param_groups:
            group["lr"] = max(self.lr * self.lr_factor(), 1e-8)
        loss = self.loss(crops, indices)
        if loss is not None:
            self.optimizer.zero_grad()
            loss.backward()
            self.after_backward()
            self.optimizer.step()
        return None if loss is None else loss.detach()


def run(job: Job, kind: type[Rival]) -> Outcome:
    """Race a rival until the budget is spent."""
    torch.set_num_threads(1)
    torch.manual_seed(job.seed)
    settings = job.settings
    pixels, _ = read(job.images / "train.npz")
    outcome = Outcome(**settings["normalise"], command=f"--entrants {job.entrant} --seeds {job.seed}")

    began = time.monotonic()
    (job.folder / "began").touch()
    backbone = resnet18(width=settings["width"], stem="cifar", sobel=settings["sobel"], seed=job.seed)
    rival = kind(backbone, settings, len(pixels))
    loader = DataLoader(
        rival.dataset(pixels),
        batch_size=settings["batch"],
        shuffle=True,
        drop_last=True,
        num_workers=1,
        persistent_workers=True,
    )
    _keep(backbone, job.folder, outcome, 0.0)
    for batch in _batches(loader, rival):
        now = time.monotonic() - began
        if now >= job.seconds:
            break
        rival.progress = now / job.seconds
        loss = rival.step(list(batch[0]), batch[1])
        outcome.steps += 1
        outcome.n_images += settings["batch"]
        if loss is not None and outcome.steps % LOSS_EVERY == 0:
            now = time.monotonic() - began
            outcome.curve.append([round(now, 2), outcome.steps, outcome.n_images, round(float(loss), 4)])
        if now >= len(outcome.snapshots) * job.seconds / N_SNAPSHOTS and len(outcome.snapshots) < N_SNAPSHOTS:
            _keep(backbone, job.folder, outcome, now)
    outcome.wall_s = time.monotonic() - began
    _keep(backbone, job.folder, outcome, outcome.wall_s)
    outcome.notes = rival.notes
    return outcome


def _batches(loader: DataLoader[Any], rival: Rival) -> Iterator[Any]:
    epoch = 0
    while True:
        rival.begin_epoch(epoch)
        yield from loader
        epoch += 1


def _keep(backbone: ResNet, folder: Path, outcome: Outcome, now: float) -> None:
    name = f"at-{len(outcome.snapshots)}.safetensors"
    save_backbone(backbone, folder / name)
    outcome.snapshots.append((now, outcome.steps, name))
