"""From images to batches of crops: loading and augmentation in worker processes, while the network trains.

Workers get the epoch and the indices of a batch and give back its crops. They hold no labels, no generator and no
state, so a batch is the same whoever makes it.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from typing import Literal

import torch
from indexed_images import CorruptImage, IndexedImages, NoSuchSplit, open_images
from multicrop_aug import Blur, Jitter, Recipe, evaluation, render
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

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


class _Crops(Dataset[Batch | BadInput]):
    def __init__(self, images: IndexedImages, resident: Tensor | None, recipe: Recipe, seed: int) -> None:
        self.images, self.resident, self.recipe, self.seed = images, resident, recipe, seed

    def __getitem__(self, item: tuple[int, Tensor]) -> Batch | BadInput:
        try:
            return self._batch(*item)
        except CorruptImage as error:  # handed over, not raised: it would arrive as the worker's traceback
            return BadInput(str(error))

    def _batch(self, epoch: int, indices: Tensor) -> Batch:
        if self.resident is not None:
            images: Tensor | list[Tensor] = self.resident[indices]
            sizes = torch.tensor(self.resident.shape[2:]).expand(len(indices), 2)
        else:
            images = [self.images[int(i)].image for i in indices]
            sizes = torch.tensor([image.shape[1:] for image in images])
        return render(images, self.recipe.draw(indices, epoch=epoch, sizes=sizes, seed=self.seed)), indices


class Loader:
    """Batches of crops, in order. Workers live as long as the loader."""

    def __init__(self, images: IndexedImages, recipe: Recipe, *, seed: int, workers: int | None, cuda: bool) -> None:
        # sets without encoded files are arrays in memory anyway; as one tensor they are cropped a batch at a time
        resident = images.resident() if images.bytes(0) is None else None
        workers = _default_workers(resident is not None, cuda) if workers is None else workers
        self._n = len(images)
        self._items: list[tuple[int, Tensor]] = []
        self._loader = DataLoader(
            _Crops(images, resident, recipe, seed),
            batch_size=None,
            sampler=_Items(self),
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_leave_interrupts_to_the_main_process,
            pin_memory=cuda,
        )

    def __len__(self) -> int:
        return self._n

    def batches(self, epoch: int, indices: list[Tensor]) -> Iterator[Batch]:
        self._items = [(epoch, batch) for batch in indices]
        try:
            for batch in self._loader:
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


def _default_workers(resident: bool, cuda: bool) -> int:
    """Decoding goes to other processes. Crops of images in memory do too beside a GPU; beside a network on the CPU
    they take 6 % of a step, and a process that competes for its cores costs more (docs/log.md)."""
    cores = len(os.sched_getaffinity(0))
    if resident:
        return min(4, cores) if cuda else 0
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
