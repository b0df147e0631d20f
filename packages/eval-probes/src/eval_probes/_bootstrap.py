"""Confidence intervals of a test score over the draw of test samples."""

import math

import torch

from ._arrays import Array, as_tensor
from ._average_precision import area_under, check_scores, ranking

_RESAMPLES_AT_A_TIME = 50  # (50, M) float64: 2 MB for VOC07's test set


@torch.no_grad()
def bootstrap_interval(
    values: Array, labels: Array | None = None, *, level: float = 0.95, n_resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval over test samples (Efron & Tibshirani 1993, ch. 13) of an accuracy or a mean AP.

    Args:
        values: (M,) bool, right or wrong, or any figure per sample, for the interval of their mean. Or scores (M, C),
            with `labels`, for the interval of `mean_average_precision`; a class absent from a resample is left out.
        labels: (M, C) integers: 1 present, 0 absent, -1 difficult. None for a mean.
        level: Confidence level in (0, 1).
        n_resamples: Number of resamples.
        seed: Seed of the resamples; no global generator is used.

    Returns:
        Lower and upper edge; NaN if no class occurs.

    Raises:
        ValueError: If a shape or argument is invalid.

    Example:
        ```python
        low, high = bootstrap_interval(probe.predict(x) == y)
        ```
    """
    if not 0 < level < 1 or n_resamples < 1:
        raise ValueError(f"level must be in (0, 1) and n_resamples at least 1, got {level} and {n_resamples}")
    values = as_tensor(values)
    labels = None if labels is None else as_tensor(labels)
    if labels is not None:
        check_scores(values, labels)
        ranked = []  # for each class that occurs: its samples in rank order, and the ranks of its positives
        for order, column in zip(ranking(values.T), labels.T, strict=True):
            order = order[column[order] >= 0]
            if len(places := (column[order] == 1).nonzero().flatten()):
                ranked.append((order, places))
        if not ranked:
            return math.nan, math.nan
    elif values.ndim != 1:
        raise ValueError(f"values must be (M,), or (M, C) with labels, got {tuple(values.shape)}")
    n = len(values)
    if n == 0:
        raise ValueError("values has no rows: pass at least one")
    generator = torch.Generator().manual_seed(seed)
    means = []
    for start in range(0, n_resamples, _RESAMPLES_AT_A_TIME):
        n_now = min(_RESAMPLES_AT_A_TIME, n_resamples - start)
        drawn = torch.randint(n, (n_now, n), generator=generator)
        counts = torch.zeros(n_now, n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(n_now, n).double())
        counts = counts.to(values.device)
        if labels is None:
            means.append(counts @ values.double() / n)
        else:  # ranked once: a resample only changes how often each sample counts
            aps = []
            for order, places in ranked:
                weights = counts[:, order]
                aps.append(area_under(weights[:, places], weights.cumsum(1)[:, places]))
            means.append(torch.stack(aps).nanmean(0))
    edges = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64, device=values.device)
    low, high = torch.cat(means).nanquantile(edges).tolist()
    return low, high
