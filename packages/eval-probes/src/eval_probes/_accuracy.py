"""Labels as class indices, and top-1 and top-5 accuracy."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ._arrays import Array, as_tensor

Classes = int | Sequence[int] | Array | None


def known_classes(classes: Classes, y: Tensor | None) -> Tensor:
    """Return the sorted class labels (C,) that `classes` names (a count means 0 ... count - 1), or else those of y."""
    if classes is None:
        if y is None:
            raise ValueError("classes must be given when training on batches: pass their number, or their labels")
        return y.long().unique()
    labels = torch.arange(classes) if isinstance(classes, int) else torch.as_tensor(classes).long().unique()
    if not len(labels):
        raise ValueError(f"classes must name at least one class, got {classes}")
    return labels


def class_index(y: Tensor, classes: Tensor) -> Tensor:
    """Return the index of each label y (N,) in the sorted classes (C,), or -1 for a label that is not among them."""
    y, classes = y.long(), classes.to(y.device)
    place = torch.searchsorted(classes, y).clamp(max=len(classes) - 1)
    return place.where(classes[place] == y, -1)


def train_index(y: Tensor, classes: Tensor) -> Tensor:
    """Return `class_index`; raise ValueError for a label that is not among the classes."""
    index = class_index(y, classes)
    if (bad := index < 0).any():
        raise ValueError(f"label {int(y[bad][0])} is not among the {len(classes)} classes: check y or classes")
    return index


def as_labels(y: Array, n: int) -> Tensor:
    """Return y as a tensor. Raise ValueError unless it holds n integers."""
    y = as_tensor(y)
    if y.shape != (n,) or y.is_floating_point():
        raise ValueError(f"y must be ({n},) integers, one per row of x, got {tuple(y.shape)} {y.dtype}")
    return y


def top_hits(scores: Tensor, true: Tensor) -> Tensor:
    """Count top-1 and top-5 hits, (..., 2) int64, of scores (B, ..., C) for true class indices (B,).

    A class index of -1 and a score of NaN never hit. Equal scores rank by class index.
    """
    true = true.view(-1, *[1] * (scores.ndim - 1)).expand(*scores.shape[:-1], 1)
    own = scores.gather(-1, true.clamp(min=0))
    earlier = torch.arange(scores.shape[-1], device=scores.device) < true
    rank = ((scores > own) | ((scores == own) & earlier)).sum(-1)  # classes ranked before the true one
    valid = ((true >= 0) & own.isfinite()).squeeze(-1)
    return torch.stack([(valid & (rank < n)).sum(0) for n in (1, 5)], -1)
