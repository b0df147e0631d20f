"""The images of a run: the sets that are opened, and the loaders that make batches of crops of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from indexed_images import IndexedImages
from torch import Tensor

from pretrain.data import class_labels, eval_recipe, open_both, train_recipe
from pretrain.launch import Machine
from pretrain.loader import Loader
from pretrain.score import KnnScore
from pretrain.settings import RunSettings
from pretrain.sources import Source
from pretrain.workers import Pool, default_workers


@dataclass(frozen=True)
class Sets:
    """Training images, and held-out ones with labels if there are any.

    Attributes:
        summary: One line on what was opened.
        remarks: Sentences on how the images were understood.
    """

    train: IndexedImages
    held_out: IndexedImages | None
    summary: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def labels(self) -> Tensor | None:
        """(N,) int64 of the training images, or None."""
        return class_labels(self.train)


@dataclass(frozen=True)
class Loaders:
    """Loaders of a run; they share one pool of worker processes.

    Attributes:
        train: Training images as the training recipe crops them.
        evaluation: Training images as the evaluation recipe crops them.
        held_out: Held-out images as the evaluation recipe crops them, or None.
        remark: A line on resident images to print before training starts, or None.
    """

    train: Loader
    evaluation: Loader
    held_out: Loader | None
    remark: str | None


def open_sets(settings: RunSettings) -> Sets:
    """Open the sets that the settings name. Raises BadInput."""
    opened = open_both(settings)
    return Sets(opened.train, opened.test, opened.summary, opened.remarks)


def make_loaders(
    sets: Sets, settings: RunSettings, machine: Machine, progress: Callable[[str, float], None]
) -> Loaders:
    """Make the loaders; decode images into memory first if `--resident` asks for it. Raises BadInput."""
    source = Source.of(sets.train, settings.resident, machine.device, progress)
    held_out = None
    if sets.held_out is not None:
        held_out = Source.of(sets.held_out, settings.resident, machine.device, progress)
    are_resident = all(one.pixels is not None for one in (source, held_out) if one is not None)
    n_workers = default_workers(are_resident, machine.is_cuda) if settings.workers is None else settings.workers
    how: dict[str, Any] = {"seed": settings.seed, "device": machine.device}
    how["pool"] = Pool(n_workers, pin_memory=machine.is_cuda)
    if machine.is_cuda and machine.precision != "32-true":
        how["dtype"] = torch.bfloat16  # autocast would convert them anyway
    return Loaders(
        train=Loader(source, train_recipe(settings), **how),
        evaluation=Loader(source, eval_recipe(settings), **how),
        held_out=None if held_out is None else Loader(held_out, eval_recipe(settings), **how),
        remark=source.remark,
    )


def prepare_score(sets: Sets, loaders: Loaders, settings: RunSettings) -> KnnScore | None:
    """The kNN score of the run; None if the training images have no labels."""
    if sets.labels is None:
        return None
    query_labels = None if sets.held_out is None else sets.held_out.labels
    return KnnScore.prepare(sets.labels, settings.knn_images, settings.seed, loaders.held_out, query_labels)
