"""One pass over the images serves all probes, and is kept: the next benchmark of these weights starts at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from eval_probes import TapFeatures, extract_features, features_key
from indexed_images import IndexedImages
from sobel_resnet import ResNet
from torch import Tensor

from classify.data import Batches, Sets

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Extractor:
    """backbone on its device; cache: folder of all features ever made, or None; batch: images at once."""

    backbone: ResNet
    weights_sha256: str
    device: torch.device
    precision: Literal["32", "bf16"]
    batch: int
    workers: int | None
    cache: Path | None
    progress: Progress
    rank: int = 0
    world: int = 1

    def train_and_test(self, sets: Sets, taps: Sequence[str], *, squash: bool) -> tuple[TapFeatures, TapFeatures]:
        """Features {tap: (N, D)} of both sets, in the order of their images, the same on every rank."""
        return self._features(sets, "train", taps, squash), self._features(sets, "test", taps, squash)

    def share(self, rows: Tensor) -> Tensor:
        """This rank's part of rows that all ranks have."""
        return rows.tensor_split(self.world)[self.rank]

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all ranks in order of rank, on the CPU; `gather(share(rows))` equals rows. Collective."""
        return rows if self.world == 1 else _gather(rows, self.device)

    def _features(self, sets: Sets, which: str, taps: Sequence[str], squash: bool) -> TapFeatures:
        images = sets.train if which == "train" else sets.test
        rows = self.share(torch.arange(len(images)))
        batches = Batches(images, sets, rows, squash=squash, workers=self.workers)
        # every tap goes to the cache, so that any other probe finds its own
        folder = None
        if self.cache is not None:
            about = (_content_key(images), f"{sets.size}/{sets.resize}/{squash}", self.precision)
            share = f"{self.rank}/{self.world}" if self.world > 1 else ""
            folder = self.cache / features_key({}, self.weights_sha256, *about, *taps, share)[:20]

        def done(n: int) -> None:
            self.progress(f"features of the {which} images", n / max(1, len(rows)))

        mine = extract_features(
            self.backbone,
            batches.from_row(self.batch, done),
            taps=taps,
            pool=sets.pool,
            precision=self.precision,
            cache=folder,
            progress=done,
        )
        assert mine.labels is not None
        return TapFeatures({tap: self.gather(x) for tap, x in mine.x.items()}, self.gather(mine.labels))


def _content_key(images: IndexedImages) -> str:
    """Of all names and labels, and the pixels of a few images: files that change places or content get another key."""
    digest = hashlib.sha256()
    for i in range(len(images)):
        digest.update(images.name(i).encode(errors="surrogateescape") + b"\0")
    if images.labels is not None:
        digest.update(images.labels.numpy().tobytes())
    for i in torch.linspace(0, len(images) - 1, 16).long().tolist():
        digest.update(images[i].image.numpy().tobytes())
    return digest.hexdigest()


def _gather(rows: Tensor, device: torch.device) -> Tensor:
    """Rows of all ranks in order of rank; ranks may hold one row more or less."""
    rows = rows.to(device)
    n = torch.tensor(len(rows), device=device)
    counts = [torch.zeros_like(n) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, n)
    longest = int(max(counts))
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])])
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)]).cpu()
