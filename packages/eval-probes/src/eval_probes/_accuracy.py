"""Labels as class indices, and top-1 and top-5 hits."""

from collections.abc import Sequence

import torch
from torch import Tensor

Classes = int | Sequence[int] | Tensor | None


def known_classes(classes: Classes, y: Tensor | None) -> Tensor:
    """Sorted class labels (C,): of classes (a count means 0 ... count - 1), or else of y."""
    if classes is None:
        if y is None:
            raise ValueError("classes must be given when training on batches: pass their number, or their labels")
        return y.long().unique()
    labels = torch.arange(classes) if isinstance(classes, int) else torch.as_tensor(classes).long().unique()
    if not len(labels):
        raise ValueError(f"classes must name at least one class, got {classes}")
    return labels


def class_index(y: Tensor, classes: Tensor) -> Tensor:
    """Place of each label y (N,) in sorted classes (C,), -1 where it is not among them."""
    y, classes = y.long(), classes.to(y.device)
    place = torch.searchsorted(classes, y).clamp(max=len(classes) - 1)
    return place.where(classes[place] == y, -1)


def train_index(y: Tensor, classes: Tensor) -> Tensor:
    """As `class_index`, where an unknown label is an error."""
    index = class_index(y, classes)
    if (bad := index < 0).any():
        raise ValueError(f"label {int(y[bad][0])} is not among the {len(classes)} classes: check y or classes")
    return index


def check_labels(y: Tensor, n: int) -> None:
    """Refuse labels that are not n integers."""
    if y.shape != (n,) or y.is_floating_point():
        raise ValueError(f"y must be ({n},) integers, one a row of x, got {tuple(y.shape)} {y.dtype}")


def top_hits(scores: Tensor, true: Tensor) -> Tensor:
    """Counts (..., 2) int64 of samples whose class is first, and among the first five, of scores (B, ..., C).

    true: (B,) class indices; -1 is never right, nor is a score of NaN. Equal scores go to the smaller class."""
    true = true.view(-1, *[1] * (scores.ndim - 1)).expand(*scores.shape[:-1], 1)
    own = scores.gather(-1, true.clamp(min=0))
    earlier = torch.arange(scores.shape[-1], device=scores.device) < true
    rank = ((scores > own) | ((scores == own) & earlier)).sum(-1)  # classes placed before the true one
    valid = ((true >= 0) & own.isfinite()).squeeze(-1)
    return torch.stack([(valid & (rank < n)).sum(0) for n in (1, 5)], -1)
