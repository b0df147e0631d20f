"""Average precision by two definitions: that of the VOC07 SVM benchmark, and scikit-learn's."""

from typing import NamedTuple

import torch
from torch import Tensor

from ._arrays import Array, as_tensor


class MeanAP(NamedTuple):
    """Average precision of several classes.

    Attributes:
        mean_ap: Mean over the classes with a positive; NaN if there is none.
        ap: (C,) float64, NaN for a class without a positive.
        n_absent: Number of classes without a positive.
    """

    mean_ap: float
    ap: Tensor
    n_absent: int


def average_precision(scores: Array, labels: Array) -> float:
    """Average precision of one class: the area under the monotone envelope of precision over recall, at all points.

    Args:
        scores: (M,) float. Among equal scores the larger index ranks first, as in the reference codes.
        labels: (M,) integers: 1 present, 0 absent, -1 difficult (left out).

    Returns:
        Average precision in [0, 1], computed in float64; NaN without a positive.

    Raises:
        ValueError: If shapes or labels are invalid, or a score is NaN.
    """
    scores, labels = as_tensor(scores), as_tensor(labels)
    return float(mean_average_precision(scores[..., None], labels[..., None]).ap[0])


def mean_average_precision(scores: Array, labels: Array) -> MeanAP:
    """Compute `average_precision` for each class, and the mean over the classes that occur.

    Args:
        scores: (M, C) float.
        labels: (M, C) integers: 1 present, 0 absent, -1 difficult (left out).

    Returns:
        `MeanAP(mean_ap, ap, n_absent)`, ap on the device of the scores.

    Raises:
        ValueError: If shapes or labels are invalid, or a score is NaN.
    """
    scores, labels = as_tensor(scores), as_tensor(labels)
    check_scores(scores, labels)
    order = ranking(scores.T)
    positive, kept = (labels.T == 1).gather(1, order), (labels.T >= 0).gather(1, order)
    ap = area(positive, kept.double())
    return MeanAP(float(ap.nanmean()), ap, int(ap.isnan().sum()))


def check_scores(scores: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless scores and labels are (M, C) each, scores float without NaN."""
    if scores.ndim != 2 or not scores.is_floating_point() or labels.shape != scores.shape:
        raise ValueError(
            f"scores (float) and labels must have one shape, got {tuple(scores.shape)} {scores.dtype} "
            f"and {tuple(labels.shape)}"
        )
    if scores.isnan().any():
        raise ValueError("scores contain NaN and cannot be ranked: find what made them")
    check_labels(labels)


def check_labels(labels: Tensor) -> None:
    """Raise ValueError for labels other than 1 (present), 0 (absent), -1 (difficult)."""
    values = labels.unique().tolist()
    if not set(values) <= {-1, 0, 1}:
        raise ValueError(f"labels must be 1 (present), 0 (absent) or -1 (difficult), got {values[:5]}")


def ranking(scores: Tensor) -> Tensor:
    """Return indices (P, M) by descending score, equal scores by descending index: a reversed ascending stable sort."""
    return scores.argsort(dim=1, stable=True).flip(1)


def area(positive: Tensor, weights: Tensor) -> Tensor:
    """Return the area average precision (P,) float64 of rows (P, M) in rank order; NaN without a positive.

    Weights, float64, say how often a sample counts; 0 leaves it out.
    """
    return area_under(weights * positive, weights.cumsum(1))


def area_under(gain: Tensor, total: Tensor) -> Tensor:
    """Return `area` from the weight that each rank adds to the true positives (P, M) and the total up to it (P, M).

    Ranks without gain may be left out of both arguments: precision falls there, so they never touch the envelope.
    """
    precision = gain.cumsum(1) / total.clamp(min=1)
    envelope = precision.flip(1).cummax(1).values.flip(1)
    return (gain * envelope).sum(1) / gain.sum(1)


def stepwise(scores: Tensor, positive: Tensor, weights: Tensor) -> Tensor:
    """Return the average precision (P,) of scikit-learn's average_precision_score; arguments (P, M) in any order.

    There is no monotone envelope, and equal scores make one threshold. NaN without a positive.
    """
    scores, order = scores.sort(1, descending=True)
    weights, gain = weights.gather(1, order), (weights * positive).gather(1, order)
    precision = gain.cumsum(1) / weights.cumsum(1).clamp(min=1)
    last = torch.ones_like(positive)
    last[:, :-1] = scores[:, 1:] != scores[:, :-1]
    place = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    threshold = place.where(last, scores.shape[1]).flip(1).cummin(1).values.flip(1)  # last rank with the same score
    return (gain * precision.gather(1, threshold)).sum(1) / gain.sum(1)
