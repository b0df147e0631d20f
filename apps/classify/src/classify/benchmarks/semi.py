"""Fine-tuning of the whole network with few labels, over a grid of learning rates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from steady_runs import BadInput, Settings

from classify.benchmark import Bench, Benchmark, Result, Row
from classify.figures import percent
from classify.settings import Common

if TYPE_CHECKING:
    from eval_probes import FineTuneCell
    from indexed_images import IndexedImages
    from torch import Tensor, nn

    from classify.data import Sets


class SemiOptions(Settings):
    """semi"""

    fraction: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Fraction of the labels that is used, the same in each class; published: 0.01 and 0.1."""
    list: str | None = None
    """File with a line `folder/file label` for each image that is used, instead of a random fraction."""
    epochs: PositiveInt | None = None
    """Epochs instead of the protocol's 20."""
    lr: tuple[PositiveFloat, ...] = ()
    """Learning rates of the backbone instead of the protocol's 0.1, 0.01 and 0.001."""
    head_multiplier: tuple[PositiveFloat, ...] = ()
    """Factors for the learning rate of the head instead of the protocol's 1, 10 and 100."""
    train_batch: PositiveInt | None = None
    """Images per training batch instead of the protocol's 256."""
    seeds: tuple[NonNegativeInt, ...] = (0,)
    """Seeds; each cell of the grid is trained once with each."""


class SemiSettings(SemiOptions, Common):
    pass


def run(bench: Bench, settings: SemiSettings) -> Result:
    import torch
    from eval_probes import SEMI_1PERCENT, SEMI_10PERCENT, FineTune, FineTuneCell, subset_indices

    from classify.data import Batches, shuffled

    sets, extractor, seeds = bench.sets, bench.extractor, settings.seeds
    protocol = SEMI_1PERCENT if settings.fraction <= 0.01 else SEMI_10PERCENT
    protocol = replace(
        protocol,
        lr=settings.lr or protocol.lr,
        head_multiplier=settings.head_multiplier or protocol.head_multiplier,
        epochs=settings.epochs or protocol.epochs,
        batch=settings.train_batch or protocol.batch,
    )
    y = sets.train_labels
    rows = _listed(sets, settings.list) if settings.list else subset_indices(y, settings.fraction, seeds[0])
    held = subset_indices(y[rows], 0.2, seeds[0], at_least=0) if len(rows) >= 10 * len(y.unique()) else None
    kept = rows if held is None else rows[~torch.isin(torch.arange(len(rows)), held)]
    images = Batches(sets.train, sets, kept, augmentation="crop", seed=seeds[0], workers=extractor.workers)

    def train(epoch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        extractor.progress(f"fine-tuning, {len(kept):,} images", (epoch + 1) / protocol.epochs)
        order = shuffled(len(kept), seed, epoch)
        if len(kept) > protocol.batch and len(kept) % protocol.batch == 1:
            order = order[:-1]  # a batch of one image has no batch statistics; each epoch leaves out another image
        for batch in images.epoch(epoch, min(protocol.batch, len(kept)), order):
            unfinished.stop_if_asked()
            yield batch

    def network() -> nn.Module:
        return copy.deepcopy(extractor.backbone).train().requires_grad_(True)

    def evaluated(images: IndexedImages, rows: Tensor) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
        return lambda: Batches(images, sets, rows, workers=extractor.workers).epoch(0, extractor.batch)

    probe = FineTune(
        network,
        dim=extractor.backbone.num_features,
        classes=y.unique(),
        protocol=protocol,
        seeds=seeds,
        precision=extractor.precision,
    )
    with bench.unfinished.going_on() as unfinished:
        done: list[dict[str, Any]] = unfinished.state or []

        def after_cell(cell: FineTuneCell) -> None:
            done.append(asdict(cell))
            unfinished.save(done)
            unfinished.stop_if_asked()

        probe.fit(
            train,
            evaluated(sets.test, torch.arange(len(sets.test))),
            None if held is None else evaluated(sets.train, rows[held]),
            done=[FineTuneCell(**cell) for cell in done],
            after_cell=after_cell,
        )
    cells = [percent(vars(cell), ("top1", "top5", "holdout_top1")) for cell in probe.cells_]
    best = {"best_on_val": percent(probe.best_on_val_, ("top1", "top5", "top1_sd"))}
    if probe.chosen_ is not None:
        best["chosen"] = percent(probe.chosen_, ("top1", "top5", "top1_sd"))
    return {"fraction": settings.fraction, "n_images": len(rows), "epochs": protocol.epochs, **best, "cells": cells}


def _listed(sets: Sets, path: str) -> Tensor:
    """Rows of the training set that a subset list names by folder and file, ascending."""
    import torch
    from eval_probes import read_subset_list

    try:
        files, _ = read_subset_list(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"--list {error}") from None
    rows = {_folder_and_file(sets.train.name(i)): i for i in range(len(sets.train))}
    absent = [file for file in files if _folder_and_file(file) not in rows]
    if absent:
        raise BadInput(
            f"--list {path}: {len(absent)} of {len(files)} files are not among the images, first {absent[0]}"
        )
    return torch.tensor([rows[_folder_and_file(file)] for file in files]).unique()


def _folder_and_file(path: str) -> str:
    return "/".join(path.split("/")[-2:])


def rows(result: Result) -> list[Row]:
    column = f"{100 * result['fraction']:g} % of the labels"
    made: list[Row] = [("published", {column: f"{result['best_on_val']['top1']:.2f}"})]
    if "chosen" in result:
        made.append(("honest", {column: f"{result['chosen']['top1']:.2f}"}))
    return made


BENCHMARK = Benchmark(
    "semi",
    "fine-tuning with 1 % or 10 % of the labels",
    SemiSettings,
    run,
    "Fine-tuning (top-1, %)",
    rows,
    uses_features=False,
)
