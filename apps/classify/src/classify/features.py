"""Features of a frozen backbone. One pass over the images serves all benchmarks and is kept for later commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from eval_probes import LinearProtocol, extract_features, features_key, pool_taps
from sobel_resnet import ResNet
from steady_runs import gather_rows
from torch import Tensor

from classify.data import Batches, Sets, shuffled
from classify.protocols import Preset

Progress = Callable[[str, float], None]  # what is being done, fraction that is done
Check = Callable[[], None]


class Labelled(NamedTuple):
    """Features of N images: x {tap: (N, D of the tap)} float32, and labels y, (N,) or (N, C) int64."""

    x: dict[str, Tensor]
    y: Tensor


@dataclass(frozen=True)
class Extractor:
    """Runs the backbone over images.

    Attributes:
        backbone: In eval mode, on `device`.
        weights_sha256: Names the weights in the cache.
        batch: Images per batch.
        workers: Processes that decode images; None = by the number of cores.
        cache: Folder of all features ever extracted; None keeps none.
        rank: Of this process among `world`.
    """

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

    def train_and_test(
        self, sets: Sets, taps: Sequence[str], *, squash: bool, stop_if_asked: Check
    ) -> tuple[Labelled, Labelled]:
        """Features of the training and the test images, in the order of the images, the same on every rank.

        Args:
            sets: Training and test images.
            taps: Which features.
            squash: Take the evaluation crop of VOC2007 instead of the central crop.
            stop_if_asked: Called after each batch; may raise. What was extracted until then stays in the cache.
        """
        train = self._features(sets, "train", taps, squash, stop_if_asked)
        return train, self._features(sets, "test", taps, squash, stop_if_asked)

    def share(self, rows: Tensor) -> Tensor:
        """This rank's part of rows that all ranks have."""
        return rows.tensor_split(self.world)[self.rank]

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all ranks in order of rank, on the CPU; `gather(share(rows))` equals `rows`. Collective."""
        return rows if self.world == 1 else gather_rows(rows.to(self.device), dist.group.WORLD).cpu()

    def fresh(
        self,
        sets: Sets,
        taps: Sequence[str],
        preset: Preset,
        protocol: LinearProtocol,
        seed: int,
        what: str,
        stop_if_asked: Check,
    ) -> Callable[[int], Iterator[tuple[dict[str, Tensor], Tensor]]]:
        """Features of random crops of the training images, new in each epoch.

        Args:
            sets: Training and test images.
            taps: Which features.
            preset: Says how images are augmented.
            protocol: Says how large a batch is.
            seed: Of order and crops, together with the epoch.
            what: Name of the benchmark, for the progress.
            stop_if_asked: Called before each batch; may raise.

        Returns:
            epoch -> batches of ({tap: (B, D)} on the device of the backbone, labels (B,)).
        """
        n, device = len(sets.train), self.device
        crops_of = Batches(
            sets.train, sets, torch.arange(n), augmentation=preset.augmentation, seed=seed, workers=self.workers
        )

        def batches(epoch: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
            done = 0
            for crops, y in crops_of.epoch(epoch, protocol.batch, shuffled(n, seed, epoch)):
                stop_if_asked()
                with (
                    torch.inference_mode(),
                    torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"),
                ):
                    maps = self.backbone.stages(crops.to(device, non_blocking=True))
                    x = {tap: z.clone() for tap, z in pool_taps(maps, taps, sets.pool).items()}
                # Cloned outside inference mode, as tensors made within it cannot be trained on.
                yield {tap: z.clone() for tap, z in x.items()}, y
                done += len(y)
                self.progress(f"{what} on fresh crops", (epoch + done / n) / protocol.epochs)

        return batches

    def _features(
        self, sets: Sets, which: Literal["train", "test"], taps: Sequence[str], squash: bool, stop_if_asked: Check
    ) -> Labelled:
        images, key = (sets.train, sets.train_key) if which == "train" else (sets.test, sets.test_key)
        rows = self.share(torch.arange(len(images)))
        batches = Batches(images, sets, rows, squash=squash, workers=self.workers)
        folder = None
        if self.cache is not None:
            about = (key, f"{sets.size}/{sets.resize}/{squash}", self.precision)
            share = f"{self.rank}/{self.world}" if self.world > 1 else ""
            folder = self.cache / features_key({}, self.weights_sha256, *about, *taps, share)[:20]

        def progress(n_done: int) -> None:
            self.progress(f"features of the {which} images", n_done / max(1, len(rows)))
            stop_if_asked()

        mine = extract_features(
            self.backbone,
            batches.from_row(self.batch, progress),
            taps=taps,
            pool=sets.pool,
            precision=self.precision,
            cache=folder,
            progress=progress,
        )
        assert mine.labels is not None  # checked in open_sets
        return Labelled({tap: self.gather(x) for tap, x in mine.x.items()}, self.gather(mine.labels))
