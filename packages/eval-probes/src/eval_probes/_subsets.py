"""Stratified subsets by seed, and published subset lists."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ._arrays import Array, as_tensor


def subset_indices(labels: Array, fraction: float, seed: int, *, at_least: int = 1) -> Tensor:
    """Draw a stratified subset: round(fraction * n) samples of each class of n samples.

    With the same seed, a smaller fraction gives a subset of a larger one.

    Args:
        labels: (N,) integers.
        fraction: In (0, 1].
        seed: Seed of the draw.
        at_least: Smallest number of samples per class; a smaller class gives all it has.

    Returns:
        Sorted indices, int64, on the CPU.

    Raises:
        ValueError: If an argument is invalid, or the subset would be empty.
    """
    labels = as_tensor(labels)
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(f"labels must be (N,) integers, got {tuple(labels.shape)} {labels.dtype}")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    labels = labels.cpu()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    order = order[labels[order].argsort(stable=True)]  # by class, in random order within a class
    _, counts = labels.unique(return_counts=True)
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    wanted = (fraction * counts.double()).round().clamp(min=at_least)
    chosen = order[rank < wanted.repeat_interleave(counts)]
    if not len(chosen):
        raise ValueError(f"{fraction} of {len(labels)} samples in {len(counts)} classes is none: use a larger fraction")
    return chosen.sort().values


def read_subset_list(path: str | Path) -> tuple[list[str], list[int]]:
    """Read a subset list, one line `folder/file label` per image; blank lines are skipped.

    Args:
        path: Path of the text file.

    Returns:
        Files and labels, in order.

    Raises:
        ValueError: If a line is invalid; the message names the first one.
    """
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
