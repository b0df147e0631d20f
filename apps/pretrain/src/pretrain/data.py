"""From images to batches of crops: loading in worker processes, augmentation there or on the GPU.

A loader process gets the epoch and the indices of a batch, and holds no labels, no generator and no state, so a batch
is the same whoever makes it.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from indexed_images import CorruptImage, IndexedImages, NoSuchSplit, open_images
from multicrop_aug import Blur, Jitter, PackedImages, Recipe, evaluation, render
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pretrain.clock import Clock
from pretrain.config import Data, parse_crops
from pretrain.errors import BadInput, WorkerLost

Batch = tuple[list[Tensor], Tensor]  # V crops of (B, 3, S, S) float32; indices (B,)


def open_for_training(settings: Data) -> IndexedImages:
    """The train split; corrupt files are replaced and counted, up to 1 % of the set."""
    return _open(settings, settings.data, "train", "replace", "--data")


def open_for_validation(settings: Data) -> IndexedImages | None:
    """`--val`, or else the val split of `--data`; None where there is none, or one without labels."""
    if settings.val is not None:
        try:
            images = _open(settings, settings.val, "val", "raise", "--val")
        except NoSuchSplit:
            images = _open(settings, settings.val, "train", "raise", "--val")
        if class_labels(images) is None:
            raise BadInput(
                f"--val {settings.val}: no labels there, one an image, and the kNN score needs them; leave --val out"
            )
        return images
    try:
        images = _open(settings, settings.data, "val", "raise", "--data")
    except NoSuchSplit:
        return None
    return images if class_labels(images) is not None else None


def class_labels(images: IndexedImages) -> Tensor | None:
    """(N,) int64; None without labels, or with several an image."""
    return images.labels if images.labels is not None and images.labels.ndim == 1 else None


def _open(settings: Data, spec: str, split: str, on_corrupt: Literal["raise", "replace"], option: str) -> IndexedImages:
    try:
        return open_images(spec, split, on_corrupt=on_corrupt, download=settings.download)
    except NoSuchSplit:
        raise
    except (ValueError, OSError, ImportError) as error:
        raise BadInput(f"{option} {spec}: {error}") from None


@dataclass(frozen=True)
class Source:
    """Images, and what is kept of them in memory where the crops are made."""

    images: IndexedImages
    pixels: Tensor | None = None  # (N, 3, H, W) uint8 on the device of the crops

    @classmethod
    def of(cls, images: IndexedImages, resident: Literal["auto", "on", "off"], device: torch.device) -> Source:
        """`auto`: sets without encoded files, which are arrays anyway, if they fit in half of a GPU's free memory."""
        if resident == "off" or (resident == "auto" and not _fits(images, device)):
            return cls(images)
        try:
            return cls(images, images.resident(device))
        except ValueError as error:
            raise BadInput(f"--resident on: {error}; take --resident auto") from None

    def __len__(self) -> int:
        return len(self.images)


def _fits(images: IndexedImages, device: torch.device) -> bool:
    if images.bytes(0) is not None:
        return False
    return device.type == "cpu" or len(images) * images[0].image.numel() < torch.cuda.mem_get_info(device)[0] // 2


class _Batches(Dataset[Any]):
    """What a loader process makes of (epoch, indices): crops, or beside a GPU the packed images to make them of."""

    def __init__(self, source: Source, recipe: Recipe, seed: int, crops: bool) -> None:
        self.source, self.recipe, self.seed, self.crops = source, recipe, seed, crops

    def __getitem__(self, item: tuple[int, Tensor]) -> tuple[Any, Tensor] | BadInput:
        epoch, indices = item
        try:
            images = [self.source.images[int(i)].image for i in indices] if self.source.pixels is None else None
        except CorruptImage as error:  # handed over, not raised: it would arrive as the worker's traceback
            return BadInput(str(error))
        if self.crops:
            return cropped(images, self.source.pixels, self.recipe, epoch, indices, self.seed, torch.float32), indices
        return PackedImages.pack(images or []), indices


def cropped(
    images: list[Tensor] | PackedImages | None,
    pixels: Tensor | None,
    recipe: Recipe,
    epoch: int,
    indices: Tensor,
    seed: int,
    dtype: torch.dtype,
) -> list[Tensor]:
    """V crops (B, 3, S, S), channels last, where the images are: given one by one, or as rows of `pixels`."""
    if images is None:
        assert pixels is not None
        plan = recipe.draw(indices, epoch=epoch, sizes=tuple(pixels.shape[2:]), seed=seed)
        return render(pixels, plan, rows=indices, dtype=dtype, memory_format=torch.channels_last)
    if isinstance(images, PackedImages):
        sizes = images.sizes
    else:
        sizes = torch.tensor([image.shape[1:] for image in images]).view(-1, 2)
    plan = recipe.draw(indices.cpu(), epoch=epoch, sizes=sizes, seed=seed)
    return render(images, plan, dtype=dtype, memory_format=torch.channels_last)


class Loader:
    """Batches of crops on the device, in order. Workers live as long as the loader.

    On a CPU crops are made by the workers, or here without workers. For a GPU they are made on it: of the resident set,
    or of images that workers have decoded and packed."""

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        *,
        seed: int,
        workers: int | None,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        on_device: bool | None = None,
    ) -> None:
        self.source, self.recipe, self.seed, self.device, self.dtype = source, recipe, seed, device, dtype
        # on a GPU, unless a test wants to see the same on a CPU
        self.on_device = device.type == "cuda" if on_device is None else on_device
        self._items: list[tuple[int, Tensor]] = []
        resident = source.pixels is not None
        workers = _default_workers(resident, device.type == "cuda") if workers is None else workers
        self._loader = None
        if not (resident and self.on_device):
            self._loader = DataLoader(
                _Batches(source, recipe, seed, crops=not self.on_device),
                batch_size=None,
                sampler=_Items(self),
                num_workers=workers,
                persistent_workers=workers > 0,
                prefetch_factor=4 if workers else None,
                worker_init_fn=_leave_interrupts_to_the_main_process,
                pin_memory=device.type == "cuda",
            )
        self._crops_here = resident and workers == 0 and not self.on_device

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, epoch: int, indices: list[Tensor], clock: Clock | None = None) -> Iterator[Batch]:
        """clock: told how long was waited for data, and how long crops took where they are made in this process."""
        clock = clock or Clock(torch.device("cpu"))
        self._items = [(epoch, batch) for batch in indices]
        if self._loader is None:
            loaded: Iterable[Any] = [(None, batch) for batch in indices]
        else:
            loaded = clock.waiting("augmentation" if self._crops_here else "data", self._received())
        for images, rows in loaded:
            rows = rows.to(self.device, non_blocking=True)
            if not self.on_device:
                yield images, rows
                continue
            with clock.section("augmentation"):
                if images is not None:
                    images = images.to(self.device, non_blocking=True)
                crops = cropped(images, self.source.pixels, self.recipe, epoch, rows, self.seed, self.dtype)
            yield crops, rows

    def _received(self) -> Iterator[Any]:
        assert self._loader is not None
        try:
            received = iter(self._loader)
            # torch's handler would raise at whatever line the training is, in the middle of a step too; without it, a
            # worker that is gone is noticed here within seconds
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for batch in received:
                if isinstance(batch, BadInput):
                    raise batch
                yield batch
        except RuntimeError as error:  # the only word of torch's loader for a worker that is gone
            if "DataLoader worker" not in str(error):
                raise
            raise WorkerLost(
                "a process that loads images was killed, most often because memory ran out: take fewer --workers, "
                "or a smaller --batch"
            ) from None


class _Items:
    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        return iter(self.loader._items)

    def __len__(self) -> int:
        return len(self.loader._items)


def _leave_interrupts_to_the_main_process(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _default_workers(resident: bool, cuda: bool) -> int:
    """Decoding goes to other processes. Crops of a resident set are made on the GPU, or on a CPU between the steps:
    they take 6 % of one there, and a process that competes for its cores costs more (docs/log.md)."""
    cores = len(os.sched_getaffinity(0))
    if resident:
        return 0
    return min(16, cores) if cuda else max(1, cores // 2)


def train_recipe(data: Data) -> Recipe:
    """The crops and photometric changes that the settings ask for."""
    brightness, contrast, saturation, hue = data.jitter
    return Recipe(
        specs=tuple(parse_crops(text) for text in data.crops),
        flip=data.flip,  # first: MMSelfSup flips last in SwAV, which is the same, as nothing but rotation knows left
        rotation_degrees=data.rotation,
        jitter=Jitter(brightness, contrast, saturation, hue, p=data.jitter_p),
        grey=data.grey,
        blur=Blur(p=data.blur),
        solarise=data.solarise,
        mean=data.mean,
        std=data.std,
    )


def eval_recipe(data: Data) -> Recipe:
    size = data.eval_size or parse_crops(data.crops[0]).size
    resize = data.eval_resize or (size if size < 96 else math.ceil(size * 8 / 7))
    return evaluation(size, resize=resize, mean=data.mean, std=data.std)
