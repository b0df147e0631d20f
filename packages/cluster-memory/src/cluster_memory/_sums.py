"""Sums by label and running sums, the same bits every time on every kind of device.

On a GPU, index_add_, scatter_add_ and cumsum add floats in any order, so their last bits differ from call to call.
There, index_put_ sorts first, segments are added row by row, and running sums are taken of integers."""

import torch
from torch import Tensor

from cluster_memory import _device


def add_rows(sums: Tensor, index: Tensor, rows: Tensor) -> None:
    """sums[index] += rows in place."""
    if _device.on_gpu(sums.device):
        sums.index_put_((index,), rows, accumulate=True)
    else:
        sums.index_add_(0, index, rows)


def segment_sums(labels: Tensor, rows: Tensor, k: int) -> Tensor:
    """Sums (K, D) of rows (B, D) by label, each added in the order of the rows."""
    order, lengths = labels.argsort(stable=True), torch.bincount(labels, minlength=k)
    return torch.segment_reduce(rows[order], "sum", lengths=lengths, axis=0)


def running_sums(weights: Tensor, n: int, highest: Tensor) -> Tensor:
    """Running sums (N,) of weights (N,) float64 >= 0: float64, or int64 on a GPU, in units of n highest / 2^62.

    highest (): the largest weight, and n the number of weights, of all ranks, so that all use one unit. What is rounded
    off is less than float64 would round off the sum. A weight of 0 adds nothing in either."""
    if not _device.on_gpu(weights.device):
        return weights.cumsum(0)
    # 2^62 / n weights at most: neither a weight nor the sum of all leaves int64
    unit = highest.double().clamp_min(torch.finfo(torch.float64).tiny)
    return (weights / unit * (2.0**62 / max(1, n))).long().cumsum(0)
