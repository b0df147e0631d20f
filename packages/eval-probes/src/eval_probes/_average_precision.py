"""Average precision: the area under the monotone curve, as the VOC07 SVM benchmark counts it, and scikit-learn's."""

from typing import NamedTuple

import torch
from torch import Tensor

from ._arrays import Array, as_tensor


class MeanAP(NamedTuple):
    """mean_ap over the classes that have a positive (nan if none has); ap (C,) float64, nan for the n_absent others."""

    mean_ap: float
    ap: Tensor
    n_absent: int


def average_precision(scores: Array, labels: Array) -> float:
    """Area under precision made non-increasing against recall, in [0, 1]; all points, not eleven.

    scores: (M,) float; labels: (M,) integers, 1 present, 0 absent, -1 difficult: left out. Equal scores rank by falling
    index, as in the reference codes. float64; nan without a positive. Raises ValueError for other shapes or labels."""
    scores, labels = as_tensor(scores), as_tensor(labels)
    return float(mean_average_precision(scores[..., None], labels[..., None]).ap[0])


def mean_average_precision(scores: Array, labels: Array) -> MeanAP:
    """`average_precision` of each column of scores (M, C) and labels (M, C), and the mean over classes that occur."""
    scores, labels = as_tensor(scores), as_tensor(labels)
    check_scores(scores, labels)
    order = ranking(scores.T)
    positive, kept = (labels.T == 1).gather(1, order), (labels.T >= 0).gather(1, order)
    ap = area(positive, kept.double())
    return MeanAP(float(ap.nanmean()), ap, int(ap.isnan().sum()))


def check_scores(scores: Tensor, labels: Tensor) -> None:
    """Refuse scores and labels that are not one (M, C) each."""
    if scores.ndim != 2 or not scores.is_floating_point() or labels.shape != scores.shape:
        raise ValueError(
            f"scores (float) and labels must have one shape, got {tuple(scores.shape)} {scores.dtype} "
            f"and {tuple(labels.shape)}"
        )
    if scores.isnan().any():
        raise ValueError("scores has NaN: nothing can be ranked by them, find what made them")
    check_labels(labels)


def check_labels(labels: Tensor) -> None:
    """Refuse labels other than 1 (present), 0 (absent), -1 (difficult)."""
    values = labels.unique().tolist()
    if not set(values) <= {-1, 0, 1}:
        raise ValueError(f"labels must be 1 (present), 0 (absent) or -1 (difficult), got {values[:5]}")


def ranking(scores: Tensor) -> Tensor:
    """Indices (P, M) by falling score, equal ones by falling index: an ascending stable sort, reversed."""
    return scores.argsort(dim=1, stable=True).flip(1)


def area(positive: Tensor, weights: Tensor) -> Tensor:
    """Area average precision (P,) float64 of rows already in rank order, (P, M) each; nan without a positive weight.

    weights: float64, how often the sample counts; 0 leaves it out."""
    return area_under(weights * positive, weights.cumsum(1))


def area_under(gain: Tensor, total: Tensor) -> Tensor:
    """`area` from what each place adds to the true positives (P, M) and all weight up to it (P, M).

    Places of no gain may be left out of both: precision falls there, so they never make the envelope."""
    precision = gain.cumsum(1) / total.clamp(min=1)
    envelope = precision.flip(1).cummax(1).values.flip(1)
    return (gain * envelope).sum(1) / gain.sum(1)


def stepwise(scores: Tensor, positive: Tensor, weights: Tensor) -> Tensor:
    """Average precision (P,) as scikit-learn's average_precision_score defines it; all arguments (P, M), any order.

    Without the monotone envelope, and equal scores make one threshold; nan without a positive weight."""
    scores, order = scores.sort(1, descending=True)
    weights, gain = weights.gather(1, order), (weights * positive).gather(1, order)
    precision = gain.cumsum(1) / weights.cumsum(1).clamp(min=1)
    last = torch.ones_like(positive)
    last[:, :-1] = scores[:, 1:] != scores[:, :-1]
    place = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    threshold = place.where(last, scores.shape[1]).flip(1).cummin(1).values.flip(1)  # the last of its equals
    return (gain * precision.gather(1, threshold)).sum(1) / gain.sum(1)
