"""Seeded stratified subsets, and published lists of them."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ._arrays import Array, as_tensor


def subset_indices(labels: Array, fraction: float, seed: int, *, at_least: int = 1) -> Tensor:
    """Sorted indices (int64) of a stratified subset: of each class of n samples, round(fraction * n).

    labels: (N,) integers. fraction: in (0, 1]. at_least: a class gets this many, or all it has. With the same seed, a
    smaller fraction is a subset of a larger one. Raises ValueError if nothing would be left."""
    labels = as_tensor(labels)
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(f"labels must be (N,) integers, got {tuple(labels.shape)} {labels.dtype}")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    labels = labels.cpu()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    order = order[labels[order].argsort(stable=True)]  # class by class, random within
    _, counts = labels.unique(return_counts=True)
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    wanted = (fraction * counts.double()).round().clamp(min=at_least)
    chosen = order[rank < wanted.repeat_interleave(counts)]
    if not len(chosen):
        raise ValueError(f"{fraction} of {len(labels)} samples in {len(counts)} classes is none: use a larger fraction")
    return chosen.sort().values


def read_subset_list(path: str | Path) -> tuple[list[str], list[int]]:
    """Files and labels of a list with a line `folder/file label` for each image; blank lines are skipped.

    Raises ValueError naming the first line that is not of that form."""
    files: list[str] = []
    labels: list[int] = []
    for number, line in enumerate(Path(path).read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            file, label = line.rsplit(maxsplit=1)
            labels.append(int(label))
        except ValueError:
            raise ValueError(f"{path}, line {number}: expected 'folder/file label', got {line!r}") from None
        files.append(file)
    return files, labels
