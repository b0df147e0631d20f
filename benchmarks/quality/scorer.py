"""The one judge: scores of saved backbones, by the same code for every entrant, in a process of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from eval_probes import COSLR, KNNProbe, LinearProbe, extract_features
from sobel_resnet import load_backbone
from torch import Tensor

from benchmarks.quality.images import read
from benchmarks.quality.job import Job

BANK = 10_000  # training images that are searched for the curve
LINEAR_LRS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # chosen among on a tenth of the training images
BATCH = 64  # with channels last, half as fast again as 500 without


def score_here(folder: Path) -> None:
    """Score the snapshots of a job: kNN of each, and everything of the last. Writes scores.json."""
    torch.set_num_threads(1)
    job, outcome = Job.read(folder / "job.json"), json.loads((folder / "outcome.json").read_text())
    train, test = read(job.images / "train.npz"), read(job.images / "test.npz")
    normalise = outcome["mean"], outcome["std"]
    scores: list[list[float]] = []
    final: dict[str, float] = {}
    snapshots = outcome["snapshots"]
    for i, (wall_s, steps, name) in enumerate(snapshots):
        is_last = i == len(snapshots) - 1
        rows = slice(None) if is_last else slice(BANK)
        x, y = _features(folder / name, train[0][rows], train[1][rows], *normalise)
        queries = _features(folder / name, *test, *normalise)
        probe = KNNProbe(20, temperature=0.07).fit(x[:BANK], y[:BANK])
        scores.append([round(wall_s, 2), steps, round(100 * probe.score(*queries), 2)])
        if is_last:
            final = _final(x, y, *queries)
    partial = folder / "scores.tmp"
    partial.write_text(json.dumps({"scores": scores, "final": final}))
    os.replace(partial, folder / "scores.json")


def _final(x: Tensor, y: Tensor, queries: Tensor, truth: Tensor) -> dict[str, float]:
    linear = LinearProbe(COSLR, lr=LINEAR_LRS, classes=10, holdout=0.1).fit(x, y)
    found = {
        "knn200": KNNProbe(200, temperature=0.1).fit(x, y).score(queries, truth),
        "knn20": KNNProbe(20, temperature=0.07).fit(x, y).score(queries, truth),
        "linear": linear.score(queries, truth),
    }
    return {name: round(100 * value, 2) for name, value in found.items()}


def _features(path: Path, images: Any, labels: Any, mean: list[float], std: list[float]) -> tuple[Tensor, Tensor]:
    backbone, _ = load_backbone(path)
    shift, scale = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))

    def batches() -> Any:
        for i in range(0, len(images), BATCH):
            pixels = torch.from_numpy(images[i : i + BATCH]).permute(0, 3, 1, 2).float().div_(255)
            crops = ((pixels - shift) / scale).contiguous(memory_format=torch.channels_last)
            yield crops, torch.from_numpy(labels[i : i + BATCH])

    backbone.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = extract_features(backbone, batches())
    assert found.labels is not None
    return found.x, found.labels
