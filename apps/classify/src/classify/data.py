"""From a data set to batches of crops and labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from indexed_images import CorruptImage, IndexedImages, OpenError, open_images, open_train_and_test
from multicrop_aug import CropSpec, Jitter, Recipe, evaluation, render
from steady_runs import BadInput, from_worker
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from classify.augment import lighting, shifted, squashed
from classify.protocols import Augmentation
from classify.settings import Common

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Sets:
    """Labelled training and test images.

    Attributes:
        size: Side of the crop in pixels.
        resize: Short side before the crop, in pixels.
        header: Lines on what was opened, and how it was understood.
    """

    train: IndexedImages
    test: IndexedImages
    size: int
    resize: int
    header: tuple[str, ...] = ()

    @property
    def train_labels(self) -> Tensor:
        return _labels(self.train)

    @cached_property
    def train_key(self) -> str:
        return self.train.fingerprint()

    @cached_property
    def test_key(self) -> str:
        return self.test.fingerprint()

    @property
    def pool(self) -> Literal["specified", "adaptive"]:
        """How taps are pooled: as published for crops of 224 px; adaptively, to as many pixels, for others."""
        return "specified" if self.size == 224 else "adaptive"

    @property
    def multi_label(self) -> bool:
        return self.train_labels.ndim == 2


def open_sets(settings: Common, data: str) -> Sets:
    """Open labelled training and test images. Without `--test`, the test images are the val or test split of `data`.

    Raises:
        BadInput: If images cannot be opened, there are no test images, or either set has no labels.
    """
    try:
        opened = open_train_and_test(
            data,
            settings.test,
            **settings.for_opening(),
        )
    except OpenError as error:
        option = f"--test {settings.test}" if settings.test is not None and error.of_test else f"--data {data}"
        raise BadInput(f"{option}: {error}") from None
    train, test, remarks = opened
    if test is None:
        raise BadInput(f"--data {data}: {no_test_images(data)}; or name the test images with --test SPEC")
    for images, option in ((train, f"--data {data}"), (test, f"--test {settings.test or data}")):
        if images.labels is None:
            why = "; ".join(remarks)
            raise BadInput(f"{option}: no labels there, and a benchmark needs them" + (f" ({why})" if why else ""))
    size = settings.size or _own_size(train) or 224
    resize = settings.resize or (size if size < 96 else round(size * 256 / 224))
    return Sets(train, test, size, resize, (opened.summary, *remarks))


def no_test_images(data: str) -> str:
    """Say why a spec has no test images."""
    try:
        open_images(data, "val")
    except (ValueError, OSError, ImportError) as error:
        return str(error)
    return "no test images there"


def _own_size(images: IndexedImages) -> int | None:
    """Side of the images where the data set holds arrays, which all have the same size; None for files."""
    return None if images.has_files else int(images[0].image.shape[-1])


def _labels(images: IndexedImages) -> Tensor:
    assert images.labels is not None  # checked in open_sets
    return images.labels


class Batches:
    """Crops and labels in batches, made by worker processes.

    Args:
        images: Data set.
        sets: Say how large a crop is.
        rows: (N,) indices of the images that are used.
        squash: Take the evaluation crop of VOC2007 instead of the central crop.
        augmentation: Take random training crops instead.
        seed: Of the random crops, together with the epoch.
        workers: None = by the number of cores.
    """

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
        """Batches of crops (B, 3, S, S) float32 and labels.

        Args:
            epoch: Random crops depend on it.
            batch: Images per batch.
            order: Positions in `rows`; None = all, as they are.
        """
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
        try:
            for crops, indices in loader:
                yield crops, self._labels[indices]
        except BadInput as error:
            raise from_worker(error) from None

    def from_row(self, batch: int, progress: Callable[[int], None]) -> Callable[[int], Iterator[tuple[Tensor, Tensor]]]:
        """The function that `extract_features` calls with the first row it wants, for batches from there on.

        Args:
            batch: Images per batch.
            progress: Called with that row.
        """

        def batches(first: int) -> Iterator[tuple[Tensor, Tensor]]:
            progress(first)
            return self.epoch(0, batch, torch.arange(first, len(self.rows)))

        return batches


class _Crops(Dataset[tuple[Tensor, Tensor]]):
    """(epoch, indices) -> crops (B, 3, S, S) of these images, and the indices."""

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

    def __getitem__(self, item: tuple[int, Tensor]) -> tuple[Tensor, Tensor]:
        epoch, indices = item
        try:
            images = [self.images[int(i)].image for i in indices]
        except CorruptImage as error:
            raise BadInput(f"{error}; remove the file or replace it") from None
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
    """Files are decoded by one process a core. Images in memory are cropped in this process unless there is a GPU.

    docs/log.md has the measurements.
    """
    cores = len(os.sched_getaffinity(0))
    if not images.has_files:
        return min(4, cores) if torch.cuda.is_available() else 0
    return min(16, cores)


def shuffled(n: int, seed: int, epoch: int) -> Tensor:
    """0 ... n - 1 in a random order of (seed, epoch), (n,) int64."""
    return torch.from_numpy(np.random.default_rng([seed, epoch, 3]).permutation(n))
