"""From a data set to batches of crops and labels, for features that are kept and for fresh ones of every epoch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from indexed_images import CorruptImage, IndexedImages, NoSuchSplit, open_images
from multicrop_aug import CropSpec, Jitter, Recipe, evaluation, render
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from classify.augment import lighting, shifted, squashed
from classify.errors import BadInput
from classify.protocols import Augmentation

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Sets:
    train: IndexedImages
    test: IndexedImages
    size: int  # of the crop
    resize: int  # of the short side before it

    @property
    def train_labels(self) -> Tensor:
        return _labels(self.train)

    @property
    def test_labels(self) -> Tensor:
        return _labels(self.test)

    @property
    def pool(self) -> Literal["specified", "adaptive"]:
        """The pools of published tables are for crops of 224 px; other sizes are pooled to as many pixels."""
        return "specified" if self.size == 224 else "adaptive"

    @property
    def multi_label(self) -> bool:
        return self.train_labels.ndim == 2


def open_sets(data: str, test: str | None, size: int | None, resize: int | None, *, download: bool = False) -> Sets:
    """Training and test images with labels; the test split of `data` if `test` is not given."""
    train = _open(data, "train", "--data", download)
    try:
        held_out = _open(test or data, "val", "--test" if test else "--data", download)
    except NoSuchSplit as error:
        if test is None:
            raise BadInput(f"--data {data}: {error}; or name the test images with --test SPEC") from None
        held_out = _open(test, "train", "--test", download)
    for images, option in ((train, f"--data {data}"), (held_out, f"--test {test or data}")):
        if images.labels is None:
            raise BadInput(f"{option}: no labels there, and a benchmark needs them")
    if size is None:
        size = _own_size(train) or 224
    return Sets(train, held_out, size, resize or (size if size < 96 else round(size * 256 / 224)))


def _open(spec: str, split: str, option: str, download: bool) -> IndexedImages:
    try:
        return open_images(spec, split, download=download)
    except NoSuchSplit:
        raise
    except (ValueError, OSError, ImportError) as error:
        raise BadInput(f"{option} {spec}: {error}") from None


def _own_size(images: IndexedImages) -> int | None:
    """The side of images that are kept as arrays, which all have one; None for files."""
    return None if images.bytes(0) is not None else int(images[0].image.shape[-1])


def _labels(images: IndexedImages) -> Tensor:
    assert images.labels is not None  # checked in open_sets
    return images.labels


class Batches:
    """Crops and labels of `rows`, a batch at a time, made by worker processes.

    squash: VOC07's evaluation crop instead of the central one. augmentation: random training crops of (seed, epoch)."""

    def __init__(
        self,
        images: IndexedImages,
        sets: Sets,
        rows: Tensor,
        *,
        squash: bool = False,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        workers: int | None = None,
    ) -> None:
        self.rows = rows
        self._labels = _labels(images)
        self._crops = _Crops(images, sets.size, sets.resize, squash, augmentation, seed)
        self._workers = _default_workers(images) if workers is None else workers

    def epoch(self, epoch: int, batch: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """(B, 3, S, S) float32 and labels; `order` are places in `rows`."""
        rows = self.rows if order is None else self.rows[order]
        items = [(epoch, part) for part in rows.split(batch)]
        loader = DataLoader(
            self._crops,
            batch_size=None,
            sampler=items,
            num_workers=min(self._workers, len(items)),
            prefetch_factor=4 if self._workers else None,
            pin_memory=torch.cuda.is_available(),
        )
        for crops, indices in loader:
            if isinstance(crops, str):
                raise BadInput(crops)
            yield crops, self._labels[indices]

    def from_row(self, batch: int, progress: Callable[[int], None]) -> Callable[[int], Iterator[tuple[Tensor, Tensor]]]:
        """For `extract_features`: first row wanted -> batches from there on."""

        def batches(first: int) -> Iterator[tuple[Tensor, Tensor]]:
            progress(first)
            return self.epoch(0, batch, torch.arange(first, len(self.rows)))

        return batches


class _Crops(Dataset[tuple[Tensor | str, Tensor]]):
    def __init__(
        self,
        images: IndexedImages,
        size: int,
        resize: int,
        squash: bool,
        augmentation: Augmentation | None,
        seed: int,
    ) -> None:
        self.images, self.size, self.resize, self.seed = images, size, resize, seed
        self.squash, self.augmentation = squash, augmentation
        self.recipe = evaluation(size, resize)
        if augmentation in ("crop", "crop+colour"):
            colour = Jitter(0.4, 0.4, 0.4, 0.0) if augmentation == "crop+colour" else Jitter()
            self.recipe = Recipe((CropSpec(size),), jitter=colour)

    def __getitem__(self, item: tuple[int, Tensor]) -> tuple[Tensor | str, Tensor]:
        epoch, indices = item
        try:
            images = [self.images[int(i)].image for i in indices]
        except CorruptImage as error:  # handed over, not raised: it would arrive as a worker's traceback
            return f"{error}; take it out, or write it anew", indices
        return self._crop(images, indices, epoch), indices

    def _crop(self, images: list[Tensor], indices: Tensor, epoch: int) -> Tensor:
        if self.squash:
            return _normalise([squashed(image, size=self.size, resize=self.resize) for image in images])
        if self.augmentation == "shift":
            return _normalise(
                [
                    shifted(image, int(i), epoch, self.seed, size=self.size, resize=self.resize)
                    for image, i in zip(images, indices, strict=True)
                ]
            )
        sizes = torch.tensor([image.shape[1:] for image in images])
        crops = render(images, self.recipe.draw(indices, epoch, sizes, self.seed))[0]
        return lighting(crops, indices, epoch, self.seed, std=STD) if self.augmentation == "crop+colour" else crops


def _normalise(images: list[Tensor]) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (torch.stack(images).float() / 255 - mean) / std


def _default_workers(images: IndexedImages) -> int:
    """Decoding goes to other processes; images in memory are cropped here (docs/log.md)."""
    cores = len(os.sched_getaffinity(0))
    if images.bytes(0) is None:
        return min(4, cores) if torch.cuda.is_available() else 0
    return min(16, cores)


def shuffled(n: int, seed: int, epoch: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, epoch, 3]).permutation(n))
